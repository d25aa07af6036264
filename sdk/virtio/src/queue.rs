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

/// Where the parts of a ring lie, as guest addresses.
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

/// A rule that the driver broke. Its queue stops; the driver has to reset the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The size is 0, too large, or not a power of two where it must be.
    Size(u16),
    /// A part of the ring is not all in one part of the guest's memory, or not aligned.
    Ring(u64),
    /// The available index went further than the ring is long.
    IndexJump {
        /// Entries that it announces.
        ahead: u16,
    },
    /// A descriptor index beyond the table.
    Index(u16),
    /// A chain that does not end, or has more buffers than a chain may have.
    LongChain,
    /// A buffer of no bytes.
    EmptyBuffer,
    /// A buffer for the device to read behind one for it to write.
    ReadableAfterWritable,
    /// A buffer that is not in the guest's memory.
    Address {
        /// First address that is not.
        addr: u64,
        /// Bytes from there on.
        len: u64,
    },
    /// An indirect table that is empty, cut off, inside another, or was not agreed on.
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
    /// Where the parts of the ring lie, to log them.
    rings: Rings,
    log: Option<Log>,
}

/// Where a queue logs what it writes.
#[derive(Clone, Debug)]
pub struct Log {
    /// The log of the whole device.
    pub pages: Arc<DirtyLog>,
    /// Whether the ring's own pages are logged, too.
    pub with_ring: bool,
}

#[derive(Debug)]
enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Queue {
    /// A queue over rings in `memory`, which begins where the last device stopped: `base` as `SET_VRING_BASE` says it (for
    /// packed rings, available index and wrap counter in the low half, used ones in the high half). With a record of what
    /// is in flight that resumes, the record says where the last device stopped, and [`pop`](Self::pop) first gives the
    /// requests that it left.
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

    /// Logs which pages of the guest's memory are written from now on.
    pub fn set_log(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// Takes the next request: whether there was one.
    ///
    /// # Errors
    /// [`Broken`]: call it no more.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.pop(&self.memory, chain),
            Ring::Packed(ring) => ring.pop(&self.memory, chain),
        }
    }

    /// Gives a request back; `written` bytes were written to it. The driver sees it after [`publish`](Self::publish).
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

    /// Shows the driver what was given back: whether it wants to be notified.
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

    /// Asks for a kick at the next request, then looks again: whether there is one already.
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

    /// Wants no kicks: the device looks by itself.
    pub fn disarm(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disarm(),
            Ring::Packed(ring) => ring.disarm(),
        }
        if self.log.is_some() {
            self.log_ring();
        }
    }

    /// Logs what the device wrote into a chain. A page is logged after it was written: whoever reads the log and then the page
    /// misses nothing.
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

    /// Whether [`pop`](Self::pop) still has requests that the last device left. Take them before you stop the
    /// queue: its base does not count them.
    #[must_use]
    pub fn is_resuming(&self) -> bool {
        match &self.ring {
            Ring::Split(ring) => ring.is_resuming(),
            Ring::Packed(ring) => ring.is_resuming(),
        }
    }

    /// Where the next device begins: what `GET_VRING_BASE` answers.
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

/// What device and driver agreed on for their rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Packed rings.
    pub packed: bool,
    /// Notifications at a chosen entry.
    pub event_idx: bool,
    /// Indirect tables.
    pub indirect: bool,
}
