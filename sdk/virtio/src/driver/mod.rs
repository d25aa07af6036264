//! The driver's side of virtqueues, over memory that it shares with a device.
//!
//! ```text
//!  offset ─▶ ring │ cells: a request's header and answer, one cell a slot │ data: one buffer a slot
//! ```
//!
//! A queue has a fixed number of slots. A slot has room for one request: its header, its data and its answer, each at a fixed offset. So a
//! request needs at most three descriptors and a copy of its data, and allocates no memory. The driver does not trust the device: it reads
//! what the device writes once and checks it. If the device breaks a rule, the queue returns [`DeviceBroken`].
//!
//! Only one thread at a time uses a queue.
#![expect(unsafe_code, reason = "copies data between the shared memory and the buffers of I/O")]

mod memory;
mod packed;
mod split;

pub use memory::SharedMemory;

use crate::queue::{Features, Rings};
use drivebay_sdk::bdev::Buffers;
use drivebay_spec_vhost::ring::{DESCRIPTOR_LEN, F_NEXT, F_WRITE, split_len};
use packed::PackedDriver;
use split::SplitDriver;
use std::fmt;
use std::sync::Arc;

/// Maximum number of descriptors of one request: header, data, answer.
const DESCRIPTORS: u16 = 3;
/// Longest header, in bytes.
pub const HEADER_MAX: usize = 64;
/// Longest answer, in bytes.
pub const ANSWER_MAX: usize = 128;
/// Distance between two cells, in bytes. The answer has its own cache lines, so that the device's writes do not evict the header.
const CELL: usize = 256;
/// Offset of the answer in its cell, in bytes.
const ANSWER: usize = 128;
/// Length of a page, in bytes. Parts of the memory begin at pages.
const PAGE: usize = 4096;

/// A rule that the device broke. Its queue cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceBroken {
    /// The device handed back more requests than it had.
    IndexJump {
        /// Number of requests that the device announced.
        ahead: u16,
    },
    /// The device handed back a request that it did not have.
    Id(u32),
}

impl fmt::Display for DeviceBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexJump { ahead } => {
                write!(f, "the used index is {ahead} requests ahead of what it has")
            }
            Self::Id(id) => write!(f, "it handed back request {id}, which it did not have"),
        }
    }
}

impl std::error::Error for DeviceBroken {}

/// The shape of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries of the ring: a power of two, at least 4.
    pub size: u16,
    /// Maximum number of requests at the same time. The ring may have room for fewer.
    pub slots_max: u16,
    /// Longest data of a request, in bytes.
    pub data_len: u32,
    /// Whether the ring is packed.
    pub packed: bool,
}

impl Layout {
    /// The number of requests that fit at the same time.
    #[must_use]
    pub fn num_slots(&self) -> u16 {
        self.slots_max.min(self.size / DESCRIPTORS)
    }

    /// Length of the queue in the shared memory, in bytes: whole pages.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.data() + usize::from(self.num_slots()) * self.data_stride()
    }

    /// The offsets of the driver's part and the device's part of the ring, and of its end.
    fn ring_parts(&self) -> (usize, usize, usize) {
        let size = self.size;
        if self.packed {
            let driver = (usize::from(size) * DESCRIPTOR_LEN).next_multiple_of(64);
            (driver, driver + 64, driver + 128)
        } else {
            let (descriptors, available, used) = split_len(size);
            // The device's part begins on its own page, so that each side writes its own cache lines.
            let device = (descriptors + available).next_multiple_of(PAGE);
            (descriptors, device, device + used)
        }
    }

    fn cells(&self) -> usize {
        self.ring_parts().2.next_multiple_of(PAGE)
    }

    fn data(&self) -> usize {
        (self.cells() + usize::from(self.num_slots()) * CELL).next_multiple_of(PAGE)
    }

    fn data_stride(&self) -> usize {
        (self.data_len as usize).next_multiple_of(PAGE)
    }
}

/// The data of a request.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// No data.
    None,
    /// The device reads these bytes.
    Bytes(&'a [u8]),
    /// The device reads these buffers.
    Out(Buffers<'a>),
    /// The device writes this many bytes.
    In(u32),
}

/// A request for the device.
#[derive(Clone, Copy, Debug)]
pub struct DriverRequest<'a> {
    /// The header, at most [`HEADER_MAX`] bytes; empty for a request that is only an answer, such as a buffer for events.
    pub header: &'a [u8],
    /// The data, at most [`Layout::data_len`] bytes.
    pub data: Data<'a>,
    /// Length of the answer, at most [`ANSWER_MAX`] bytes.
    pub answer_len: u32,
    /// Whether the answer comes before the data that the device writes (SCSI) or behind it (block).
    pub answer_first: bool,
}

/// A request that the device handed back. Its slot stays taken until [`DriverQueue::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its slot.
    pub slot: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// The contents of a descriptor.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    addr: u64,
    len: u32,
    /// `F_WRITE`, `F_NEXT`.
    flags: u16,
}

/// A virtqueue, as a driver uses it.
#[derive(Debug)]
pub struct DriverQueue {
    memory: Arc<SharedMemory>,
    layout: Layout,
    /// Offset of the queue in the memory, in bytes.
    offset: usize,
    ring: Ring,
    /// Free slots. The last one is taken first.
    free: Vec<u16>,
    /// Whether the device has the request of a slot.
    is_at_device: Vec<bool>,
}

#[derive(Debug)]
enum Ring {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl DriverQueue {
    /// Creates a queue in zeroed memory. It begins at `offset`, which is a multiple of the page size.
    ///
    /// # Panics
    /// When the queue does not fit into the memory.
    #[must_use]
    pub fn new(
        memory: Arc<SharedMemory>,
        offset: usize,
        layout: Layout,
        features: Features,
    ) -> Self {
        assert!(offset.is_multiple_of(PAGE) && offset + layout.len_bytes() <= memory.len_bytes());
        let (driver, device, _) = layout.ring_parts();
        let parts = (offset, offset + driver, offset + device);
        let slots = layout.num_slots();
        let ring = if layout.packed {
            Ring::Packed(PackedDriver::new(parts, layout.size, slots, features.event_idx))
        } else {
            Ring::Split(SplitDriver::new(parts, layout.size, features.event_idx))
        };
        let free = (0..slots).rev().collect();
        let is_at_device = vec![false; slots.into()];
        Self { memory, layout, offset, ring, free, is_at_device }
    }

    /// The parts of the ring, as addresses of the device.
    #[must_use]
    pub fn rings(&self) -> Rings {
        let (driver, device, _) = self.layout.ring_parts();
        let addr = |part| SharedMemory::GUEST_ADDR + (self.offset + part) as u64;
        Rings {
            size: self.layout.size,
            descriptors: addr(0),
            available: addr(driver),
            used: addr(device),
        }
    }

    /// The number of requests that fit at the same time.
    #[must_use]
    pub fn num_slots(&self) -> u16 {
        self.layout.num_slots()
    }

    /// Whether a slot is free.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Puts a request into the ring and copies its data. Returns its slot, or `None` when no slot is free. A device that polls may
    /// see the request at once. Call [`publish`](Self::publish) after the last request of a burst.
    ///
    /// # Panics
    /// When the request is longer than a slot.
    #[inline]
    pub fn submit(&mut self, ask: &DriverRequest<'_>) -> Option<u16> {
        assert!(ask.header.len() <= HEADER_MAX && ask.answer_len as usize <= ANSWER_MAX);
        let slot = self.free.pop()?;
        let (cell, data) = (self.cell(slot), self.data(slot));
        self.copy_in(cell, ask.header);
        // Invalidate the old answer, so that a request whose answer the device does not write does not look like a success.
        self.copy_in(cell + ANSWER, &[0xff]);
        let (len, is_written) = match ask.data {
            Data::None => (0, false),
            Data::Bytes(bytes) => {
                assert!(bytes.len() <= self.layout.data_len as usize);
                self.copy_in(data, bytes);
                (bytes.len(), false)
            }
            Data::Out(buffers) => (self.copy_buffers_in(data, buffers), false),
            Data::In(len) => (len as usize, true),
        };
        assert!(len <= self.layout.data_len as usize);
        let piece = |offset: usize, len: usize, flags| Piece {
            addr: SharedMemory::GUEST_ADDR + offset as u64,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            flags,
        };
        let header = piece(cell, ask.header.len(), F_NEXT);
        let answer = piece(cell + ANSWER, ask.answer_len as usize, F_WRITE);
        let data = piece(data, len, if is_written { F_WRITE } else { 0 });
        if let Some(is_there) = self.is_at_device.get_mut(usize::from(slot)) {
            *is_there = true;
        }
        let more = |piece: Piece| Piece { flags: piece.flags | F_NEXT, ..piece };
        match (len > 0, is_written && ask.answer_first) {
            (false, _) if ask.header.is_empty() => self.add(slot, &[answer]),
            (false, _) => self.add(slot, &[header, answer]),
            (true, false) => self.add(slot, &[header, more(data), answer]),
            (true, true) => self.add(slot, &[header, more(answer), data]),
        }
        Some(slot)
    }

    #[inline]
    fn add(&mut self, slot: u16, pieces: &[Piece]) {
        match &mut self.ring {
            Ring::Split(ring) => ring.add(&self.memory, slot, pieces),
            Ring::Packed(ring) => ring.add(&self.memory, slot, pieces),
        }
    }

    /// Makes the requests that were submitted since the last call visible to the device. Returns whether the device wants a kick.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(&self.memory),
            Ring::Packed(ring) => ring.publish(&self.memory),
        }
    }

    /// Takes the next request that the device handed back.
    ///
    /// # Errors
    /// The device broke a rule, and the queue cannot be used any more.
    #[inline]
    pub fn next_used(&mut self) -> Result<Option<Used>, DeviceBroken> {
        let used = match &mut self.ring {
            Ring::Split(ring) => ring.next_used(&self.memory)?,
            Ring::Packed(ring) => ring.next_used(&self.memory)?,
        };
        let Some((id, written)) = used else { return Ok(None) };
        let slot = u16::try_from(id).map_err(|_| DeviceBroken::Id(id))?;
        match self.is_at_device.get_mut(usize::from(slot)) {
            Some(is_there @ true) => *is_there = false,
            _ => return Err(DeviceBroken::Id(id)),
        }
        Ok(Some(Used { slot, written }))
    }

    /// Copies the answer to a request that was handed back.
    pub fn answer(&self, slot: u16, answer: &mut [u8]) {
        assert!(answer.len() <= ANSWER_MAX);
        let from = self.memory.at(self.cell(slot) + ANSWER, answer.len());
        // SAFETY: both are valid for this length, and the slice is not part of the shared memory.
        unsafe { std::ptr::copy_nonoverlapping(from, answer.as_mut_ptr(), answer.len()) };
    }

    /// Copies the data that the device wrote into the buffers of an I/O, until they are full.
    #[inline]
    pub fn fill(&self, slot: u16, buffers: Buffers<'_>) {
        let mut at = self.data(slot);
        let end = at + self.layout.data_len as usize;
        for (addr, len) in buffers.pieces() {
            let len = len.min(end - at);
            let from = self.memory.at(at, len);
            // SAFETY: both are valid for `len` bytes. `copy` allows an overlap, because the buffers may lie in the shared memory.
            unsafe { std::ptr::copy(from, addr, len) };
            at += len;
        }
    }

    /// Copies the data that the device wrote into `bytes`.
    pub fn read(&self, slot: u16, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.layout.data_len as usize);
        let from = self.memory.at(self.data(slot), bytes.len());
        // SAFETY: both are valid for this length, and the slice is not part of the shared memory.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Frees the slot of a request that was handed back.
    #[inline]
    pub fn release(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot), "released twice");
        self.free.push(slot);
    }

    /// Asks the device for a call at the next request that it hands back, then checks again. Returns whether the device has already handed
    /// one back.
    #[must_use]
    pub fn arm(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => ring.arm(&self.memory),
            Ring::Packed(ring) => ring.arm(&self.memory),
        }
    }

    /// Asks for no calls, because the driver polls.
    pub fn disarm(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disarm(&self.memory),
            Ring::Packed(ring) => ring.disarm(&self.memory),
        }
    }

    fn cell(&self, slot: u16) -> usize {
        self.offset + self.layout.cells() + usize::from(slot) * CELL
    }

    fn data(&self, slot: u16) -> usize {
        self.offset + self.layout.data() + usize::from(slot) * self.layout.data_stride()
    }

    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let to = self.memory.at(at, bytes.len());
        // SAFETY: both are valid for this length, and the slice is not part of the shared memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies all bytes of the buffers. Returns their number.
    #[inline]
    fn copy_buffers_in(&self, at: usize, buffers: Buffers<'_>) -> usize {
        let mut done = 0;
        for (addr, len) in buffers.pieces() {
            assert!(done + len <= self.layout.data_len as usize);
            let to = self.memory.at(at + done, len);
            // SAFETY: both are valid for `len` bytes. `copy` allows an overlap, because the buffers may lie in the shared memory.
            unsafe { std::ptr::copy(addr, to, len) };
            done += len;
        }
        done
    }
}

#[cfg(test)]
mod tests;
