//! A virtqueue of either kind.

use crate::chain::Chain;
use crate::inflight::Inflight;
use crate::log::DirtyLog;
use crate::memory::GuestMemory;
use crate::packed::PackedRing;
use crate::split::SplitRing;
use drivebay_spec_vhost::ring::{DESCRIPTOR_LEN, split_len};
use std::fmt;
use std::sync::Arc;

/// The addresses of the parts of a ring, as guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Entries.
    pub size: u16,
    /// Descriptor table; the ring itself when packed.
    pub descriptors: u64,
    /// Available ring; driver event area when packed.
    pub available: u64,
    /// Used ring; device event area when packed.
    pub used: u64,
}

/// A rule that the driver broke. The queue stops until the driver resets the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The size is 0, too large, or not a power of two where it must be.
    Size(u16),
    /// A part of the ring is not completely in one part of the guest's memory, or not aligned.
    Ring(u64),
    /// The available index announces more entries than the ring has.
    IndexJump {
        /// Entries that it announces.
        ahead: u16,
    },
    /// A descriptor index is beyond the table.
    Index(u16),
    /// A chain does not end, or has too many buffers.
    LongChain,
    /// A buffer has no bytes.
    EmptyBuffer,
    /// A buffer that the device reads follows a buffer that it writes.
    ReadableAfterWritable,
    /// A buffer is not in the guest's memory.
    Address {
        /// First address outside of it.
        addr: u64,
        /// Bytes from there on.
        len: u64,
    },
    /// An indirect table is empty, cut off, inside another one, or was not negotiated.
    Indirect,
    /// The area for requests in flight does not fit the ring.
    Inflight,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a ring of {size} entries"),
            Self::Ring(addr) => {
                write!(f, "a part of the ring at {addr:#x} is not in the guest's memory")
            }
            Self::IndexJump { ahead } => write!(f, "the available index is {ahead} entries ahead"),
            Self::Index(index) => write!(f, "descriptor {index} is beyond the table"),
            Self::LongChain => f.write_str("a chain of too many buffers"),
            Self::EmptyBuffer => f.write_str("a buffer of no bytes"),
            Self::ReadableAfterWritable => f.write_str("a readable buffer behind a writable one"),
            Self::Address { addr, len } => {
                write!(f, "a buffer of {len} bytes at {addr:#x} is not in the guest's memory")
            }
            Self::Indirect => f.write_str("an indirect table that is not allowed"),
            Self::Inflight => f.write_str("an area for requests in flight that does not fit it"),
        }
    }
}

impl std::error::Error for Broken {}

/// A virtqueue. `[one lightweight thread]`
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    memory: Arc<GuestMemory>,
    /// The addresses of the ring, for the log.
    rings: Rings,
    log: Option<Log>,
}

/// Where a queue logs what it writes.
#[derive(Clone, Debug)]
pub struct Log {
    /// The log of the whole device.
    pub pages: Arc<DirtyLog>,
    /// Whether the log includes the pages of the ring.
    pub with_ring: bool,
}

#[derive(Debug)]
enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Queue {
    /// Creates a queue over rings in `memory`. It begins where the last device stopped. `base` is the value of
    /// `SET_VRING_BASE`: for packed rings, available index and wrap counter in the low half, used ones in the high half. If
    /// `inflight` resumes, its record says where the last device stopped, and [`pop`](Self::pop) first returns the requests
    /// that the last device left.
    ///
    /// # Errors
    /// [`Broken::Size`] and [`Broken::Ring`]; [`Broken::Inflight`] when the record contradicts itself or the ring.
    pub fn new(
        memory: Arc<GuestMemory>,
        rings: &Rings,
        base: u32,
        features: Features,
        inflight: Option<Inflight>,
    ) -> Result<Self, Broken> {
        let ring = if features.packed {
            Ring::Packed(PackedRing::new(&memory, rings, base, features, inflight)?)
        } else {
            Ring::Split(SplitRing::new(&memory, rings, base, features, inflight)?)
        };
        Ok(Self { ring, memory, rings: *rings, log: None })
    }

    /// Starts logging the pages of the guest's memory that the device writes.
    pub fn set_log(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// Takes the next request. Returns whether there was one.
    ///
    /// # Errors
    /// [`Broken`]: do not call it again.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.pop(&self.memory, chain),
            Ring::Packed(ring) => ring.pop(&self.memory, chain),
        }
    }

    /// Hands back a request, to which the device has written `written` bytes. The driver sees it after [`publish`](Self::publish).
    #[inline]
    pub fn push(&mut self, chain: &Chain, written: u32) {
        if self.log.is_some() {
            self.log_chain(chain);
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.push(chain.id, written),
            Ring::Packed(ring) => ring.push(chain, written),
        }
    }

    /// Shows the driver the requests that were handed back. Returns whether the driver wants a call.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let wants_call = match &mut self.ring {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        };
        if self.log.is_some() {
            self.log_ring();
        }
        wants_call
    }

    /// Asks for a kick at the next request, then looks again. Returns whether there is already a request.
    #[must_use]
    pub fn arm(&mut self) -> bool {
        let has_work = match &mut self.ring {
            Ring::Split(ring) => ring.arm(),
            Ring::Packed(ring) => ring.arm(),
        };
        if self.log.is_some() {
            self.log_ring();
        }
        has_work
    }

    /// Asks for no kicks, because the device polls.
    pub fn disarm(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disarm(),
            Ring::Packed(ring) => ring.disarm(),
        }
        if self.log.is_some() {
            self.log_ring();
        }
    }

    /// Logs the buffers of a chain that the device writes. It logs a page after the write, so a VMM that reads the log and then
    /// the page misses nothing.
    #[cold]
    fn log_chain(&self, chain: &Chain) {
        let Some(log) = &self.log else { return };
        for piece in chain.writable() {
            // Pieces lie in the guest's memory.
            if let Some(addr) = self.memory.guest_addr_of(piece.addr) {
                log.pages.mark(addr, piece.len.into());
            }
        }
    }

    #[cold]
    fn log_ring(&self) {
        let Some(log) = self.log.as_ref().filter(|log| log.with_ring) else { return };
        let Rings { size, descriptors, used, .. } = self.rings;
        match &self.ring {
            Ring::Split(_) => log.pages.mark(used, split_len(size).2 as u64),
            Ring::Packed(_) => {
                log.pages.mark(descriptors, u64::from(size) * DESCRIPTOR_LEN as u64);
                log.pages.mark(used, 4);
            }
        }
    }

    /// Whether [`pop`](Self::pop) still has requests that the last device left. Take them before you stop the queue, because its
    /// base does not count them.
    #[must_use]
    pub fn is_resuming(&self) -> bool {
        match &self.ring {
            Ring::Split(ring) => ring.is_resuming(),
            Ring::Packed(ring) => ring.is_resuming(),
        }
    }

    /// Where the next device begins. This is the answer to `GET_VRING_BASE`.
    #[must_use]
    pub fn base(&self) -> u32 {
        match &self.ring {
            Ring::Split(ring) => ring.base(),
            Ring::Packed(ring) => ring.base(),
        }
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

/// The features of the rings that device and driver have negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Packed rings.
    pub packed: bool,
    /// Calls and kicks at a chosen entry (`EVENT_IDX`).
    pub event_idx: bool,
    /// Indirect tables.
    pub indirect: bool,
}
