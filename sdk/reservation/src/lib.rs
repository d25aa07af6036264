//! Persistent reservations, which say who may read and write a disk. Hosts register keys, and at most one reservation exists.
//!
//! Reservations have the same meaning in SCSI (SPC-4, section 5.12) and in NVMe (NVMe Base 2.0, section 8.19). So both protocols keep them
//! in a [`Table`]. Each protocol handles the differences itself: names of hosts, fields of commands, statuses. `W` names a host: an
//! initiator port, or a host identifier.
//!
//! | kind | holder | registrants | others |
//! |---|---|---|---|
//! | write exclusive | reads, writes | read | read |
//! | exclusive access | reads, writes | nothing | nothing |
//! | … registrants only | reads, writes | read, write | read (write exclusive) or nothing |
//! | … all registrants | every registrant is a holder | read, write | read (write exclusive) or nothing |
//!
//! A table belongs to one thread. It does no I/O. Its owner stores it, with [`mod@file`].

pub mod file;
mod table;
#[cfg(test)]
mod tests;

pub use table::Table;

/// Maximum number of registrants in a table.
pub const REGISTRANTS_MAX: usize = 256;

/// What a reservation allows its holder, the registrants and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only the holder writes; everybody reads.
    WriteExclusive,
    /// Only the holder writes and reads.
    ExclusiveAccess,
    /// Only registrants write; everybody reads.
    WriteExclusiveRegistrants,
    /// Only registrants write and read.
    ExclusiveAccessRegistrants,
    /// Every registrant is a holder. Only registrants write; everybody reads.
    WriteExclusiveAll,
    /// Every registrant is a holder. Only registrants write and read.
    ExclusiveAccessAll,
}

impl Kind {
    /// Whether every registrant holds the reservation.
    #[must_use]
    pub const fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Whether registrants that are not the holder may write and read.
    #[must_use]
    pub const fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether everybody may read.
    #[must_use]
    pub const fn admits_readers(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }
}

/// How a command uses the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It writes, or changes the disk.
    Write,
}

/// A registered host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant<W> {
    /// The host.
    pub who: W,
    /// Its key, never 0.
    pub key: u64,
}

/// The reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<W> {
    /// Its kind.
    pub kind: Kind,
    /// Its holder; `None` when every registrant is a holder.
    pub holder: Option<W>,
}

/// A notice to a host, because another host changed the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The host's registration was preempted.
    RegistrationPreempted,
    /// A reservation that gave registrants access was released.
    ReservationReleased,
    /// The reservation and all registrations were cleared.
    ReservationPreempted,
}

/// The consequences of a change for other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<W> {
    /// The notices to send.
    pub notices: Vec<(W, Notice)>,
    /// Hosts whose registrations were preempted. "Preempt and abort" also aborts their commands.
    pub preempted: Vec<W>,
}

impl<W> Default for Told<W> {
    fn default() -> Self {
        Self { notices: Vec::new(), preempted: Vec::new() }
    }
}

/// The reason why a change is refused. A refused change leaves the table unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another host holds the reservation, or no registrant has the key.
    Conflict,
    /// The table has [`REGISTRANTS_MAX`] registrants.
    Full,
    /// The holder tried to release a reservation of another kind.
    WrongKind,
    /// Key 0 can preempt only a reservation of all registrants.
    KeyZero,
}
