//! Who may read and write a disk: hosts that registered a key, and at most one reservation among them.
//!
//! SCSI's persistent reservations (SPC-4, section 5.12) and NVMe's reservations (NVMe Base 2.0, section 8.19) mean the same. So both
//! protocols keep their reservations in a [`Table`]; what differs between them (how a host is named, what a field may hold, how a
//! command is answered) stays with the protocol. `W` names a host: an initiator port, or a host identifier.
//!
//! | kind | holder | registrants | others |
//! |---|---|---|---|
//! | write exclusive | reads, writes | read | read |
//! | exclusive access | reads, writes | nothing | nothing |
//! | … registrants only | reads, writes | read, write | read (write exclusive) or nothing |
//! | … all registrants | is every registrant | read, write | read (write exclusive) or nothing |
//!
//! A table lives on one thread. It neither waits nor stores: its owner does, with [`file`].

pub mod file;
mod table;
#[cfg(test)]
mod tests;

pub use table::Table;

/// Most registrants of a table.
pub const REGISTRANTS_MAX: usize = 256;

/// What a reservation lets its holder, the registrants and others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The holder writes, all read.
    WriteExclusive,
    /// The holder writes and reads.
    ExclusiveAccess,
    /// Registrants write, all read.
    WriteExclusiveRegistrants,
    /// Registrants write and read.
    ExclusiveAccessRegistrants,
    /// Registrants are holders and write, all read.
    WriteExclusiveAll,
    /// Registrants are holders, write and read.
    ExclusiveAccessAll,
}

impl Kind {
    /// Whether every registrant holds the reservation.
    #[must_use]
    pub const fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Whether registrants that do not hold it have access.
    #[must_use]
    pub const fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether those without access may still read.
    #[must_use]
    pub const fn admits_readers(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }
}

/// What a command does with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It writes, or changes the disk.
    Write,
}

/// A host that registered.
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
    /// Its holder; `None`: every registrant is.
    pub holder: Option<W>,
}

/// What a host has to hear when another one changed the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its registration was preempted.
    RegistrationPreempted,
    /// A reservation that registrants shared was released.
    ReservationReleased,
    /// The reservation and all registrations were cleared.
    ReservationPreempted,
}

/// What a change means for other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<W> {
    /// What they have to hear.
    pub notices: Vec<(W, Notice)>,
    /// Hosts whose registrations were preempted. With "preempt and abort" their commands are aborted.
    pub preempted: Vec<W>,
}

impl<W> Default for Told<W> {
    fn default() -> Self {
        Self { notices: Vec::new(), preempted: Vec::new() }
    }
}

/// Why a change is refused. The table stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another host's reservation or key is in the way.
    Conflict,
    /// [`REGISTRANTS_MAX`] is reached.
    Full,
    /// The holder releases a reservation of another kind than the table has.
    WrongKind,
    /// Key 0 preempts only a reservation of all registrants.
    KeyZero,
}
