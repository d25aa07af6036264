//! Split rings, as a driver writes them. virtio 1.3, section 2.7.

use super::memory::SharedMemory;
use super::{DESCRIPTORS, DeviceBroken, Piece};
use drivebay_spec_vhost::ring::{
    AVAIL_NO_INTERRUPT, DESCRIPTOR_LEN, F_NEXT, USED_NO_NOTIFY, passes,
};
use std::sync::atomic::{Ordering, fence};

/// The driver's side of a split ring. Each slot has three descriptors at fixed places in the table.
#[derive(Debug)]
pub(super) struct SplitDriver {
    size: u16,
    descriptors: usize,
    available: usize,
    used: usize,
    /// Next entry of the available ring. It wraps at 2^16.
    next_available: u16,
    /// The available index at the last `publish`.
    published: u16,
    /// Next entry of the used ring.
    next_used: u16,
    event_idx: bool,
}

impl SplitDriver {
    pub(super) fn new(
        (descriptors, available, used): (usize, usize, usize),
        size: u16,
        event_idx: bool,
    ) -> Self {
        let (next_available, published, next_used) = (0, 0, 0);
        Self { size, descriptors, available, used, next_available, published, next_used, event_idx }
    }

    #[inline]
    pub(super) fn add(&mut self, memory: &SharedMemory, slot: u16, pieces: &[Piece]) {
        let head = slot * DESCRIPTORS;
        for (index, piece) in (head..).zip(pieces) {
            let at = self.descriptors + usize::from(index) * DESCRIPTOR_LEN;
            let next = if piece.flags & F_NEXT != 0 { index + 1 } else { 0 };
            let second =
                u64::from(piece.len) | u64::from(piece.flags) << 32 | u64::from(next) << 48;
            memory.u64(at).store(piece.addr.to_le(), Ordering::Relaxed);
            memory.u64(at + 8).store(second.to_le(), Ordering::Relaxed);
        }
        let entry = self.available + 4 + 2 * usize::from(self.next_available % self.size);
        memory.u16(entry).store(head.to_le(), Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
    }

    #[inline]
    pub(super) fn publish(&mut self, memory: &SharedMemory) -> bool {
        let (old, new) = (self.published, self.next_available);
        if old == new {
            return false;
        }
        self.published = new;
        memory.u16(self.available + 2).store(new.to_le(), Ordering::Release);
        // The device first stores whether it wants a kick, then reads the index. So either the device sees the new index, or this code
        // sees that it wants a kick.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = memory.u16(self.used + 4 + 8 * usize::from(self.size));
            passes(u16::from_le(event.load(Ordering::Relaxed)), new, old)
        } else {
            u16::from_le(memory.u16(self.used).load(Ordering::Relaxed)) & USED_NO_NOTIFY == 0
        }
    }

    /// Takes the next request that was handed back. Returns the number of its slot, and the bytes that the device wrote.
    #[inline]
    pub(super) fn next_used(
        &mut self,
        memory: &SharedMemory,
    ) -> Result<Option<(u32, u32)>, DeviceBroken> {
        let index = self.used_index(memory);
        let ahead = index.wrapping_sub(self.next_used);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.published.wrapping_sub(self.next_used) {
            return Err(DeviceBroken::IndexJump { ahead });
        }
        let entry = self.used + 4 + 8 * usize::from(self.next_used % self.size);
        let id = u32::from_le(memory.u32(entry).load(Ordering::Relaxed));
        let written = u32::from_le(memory.u32(entry + 4).load(Ordering::Relaxed));
        if !id.is_multiple_of(DESCRIPTORS.into()) {
            return Err(DeviceBroken::Id(id));
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some((id / u32::from(DESCRIPTORS), written)))
    }

    pub(super) fn arm(&mut self, memory: &SharedMemory) -> bool {
        if self.event_idx {
            let event = self.available + 4 + 2 * usize::from(self.size);
            memory.u16(event).store(self.next_used.to_le(), Ordering::Relaxed);
        } else {
            memory.u16(self.available).store(0, Ordering::Relaxed);
        }
        // The device first hands back a request, then reads whether the driver wants a call. So either the device sees that the driver
        // wants a call, or this code sees the request.
        fence(Ordering::SeqCst);
        self.used_index(memory) != self.next_used
    }

    pub(super) fn disarm(&mut self, memory: &SharedMemory) {
        // The flag has no effect with event indices. The device then reaches the old event index once in 2^16 requests, which costs only a
        // needless call.
        if !self.event_idx {
            memory.u16(self.available).store(AVAIL_NO_INTERRUPT.to_le(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn used_index(&self, memory: &SharedMemory) -> u16 {
        u16::from_le(memory.u16(self.used + 2).load(Ordering::Acquire))
    }
}
