//! Packed rings, as a driver writes them. virtio 1.3, section 2.8.

use super::memory::SharedMemory;
use super::{DeviceBroken, Piece};
use crate::packed::Place;
use drivebay_spec_vhost::ring::{
    DESCRIPTOR_LEN, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, F_AVAIL, F_USED,
};
use std::sync::atomic::{Ordering, fence};

#[derive(Debug)]
pub(super) struct PackedDriver {
    size: u16,
    ring: usize,
    /// The driver's event area, which the device reads.
    driver: usize,
    /// The device's event area.
    device: usize,
    next_available: Place,
    next_used: Place,
    /// The place at the last `publish`.
    published: Place,
    /// Descriptors of the request in each slot.
    entries: Vec<u16>,
    event_idx: bool,
}

impl PackedDriver {
    pub(super) fn new(
        (ring, driver, device): (usize, usize, usize),
        size: u16,
        slots: u16,
        event_idx: bool,
    ) -> Self {
        let first = Place { index: 0, wrap: true };
        Self {
            size,
            ring,
            driver,
            device,
            next_available: first,
            next_used: first,
            published: first,
            entries: vec![0; slots.into()],
            event_idx,
        }
    }

    /// Adds a request. Writes the first descriptor last, so that the device sees the whole request at once.
    #[inline]
    pub(super) fn add(&mut self, memory: &SharedMemory, slot: u16, pieces: &[Piece]) {
        let mut place = self.next_available;
        let mut first = None;
        for piece in pieces {
            let at = self.ring + usize::from(place.index) * DESCRIPTOR_LEN;
            let lap = if place.wrap { F_AVAIL } else { F_USED };
            let second =
                u64::from(piece.len) | u64::from(slot) << 32 | u64::from(piece.flags | lap) << 48;
            memory.u64(at).store(piece.addr.to_le(), Ordering::Relaxed);
            match first {
                None => first = Some((at + 8, second)),
                Some(_) => memory.u64(at + 8).store(second.to_le(), Ordering::Relaxed),
            }
            place.advance(1, self.size);
        }
        if let Some((at, second)) = first {
            memory.u64(at).store(second.to_le(), Ordering::Release);
        }
        if let Some(entries) = self.entries.get_mut(usize::from(slot)) {
            *entries = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
        }
        self.next_available = place;
    }

    #[inline]
    pub(super) fn publish(&mut self, memory: &SharedMemory) -> bool {
        let (old, new) = (self.published, self.next_available);
        if old == new {
            return false;
        }
        self.published = new;
        // The device first stores whether it wants a kick, then reads the ring. So either the device sees the new requests, or this code
        // sees that it wants a kick.
        fence(Ordering::SeqCst);
        let wish = u32::from_le(memory.u32(self.device).load(Ordering::Relaxed));
        let [a, b, c, d] = wish.to_le_bytes();
        match u16::from_le_bytes([c, d]) {
            EVENT_ENABLE => true,
            EVENT_DESC if self.event_idx => {
                Place::from_bits(u16::from_le_bytes([a, b])).is_passed(old, new, self.size)
            }
            _ => false,
        }
    }

    /// Takes the next request that was handed back. Returns the number of its slot, and the bytes that the device wrote.
    #[inline]
    pub(super) fn next_used(
        &mut self,
        memory: &SharedMemory,
    ) -> Result<Option<(u32, u32)>, DeviceBroken> {
        if !self.is_used(memory) {
            return Ok(None);
        }
        let at = self.ring + usize::from(self.next_used.index) * DESCRIPTOR_LEN;
        let written = u32::from_le(memory.u32(at + 8).load(Ordering::Relaxed));
        let id = u16::from_le(memory.u16(at + 12).load(Ordering::Relaxed));
        // The queue refuses a slot that the device does not have.
        let entries = self.entries.get(usize::from(id)).copied().filter(|&entries| entries > 0);
        self.next_used.advance(entries.ok_or(DeviceBroken::Id(id.into()))?, self.size);
        Ok(Some((id.into(), written)))
    }

    pub(super) fn arm(&mut self, memory: &SharedMemory) -> bool {
        let wish = if self.event_idx {
            u32::from(self.next_used.bits()) | u32::from(EVENT_DESC) << 16
        } else {
            u32::from(EVENT_ENABLE) << 16
        };
        memory.u32(self.driver).store(wish.to_le(), Ordering::Relaxed);
        // The device first hands back a request, then reads whether the driver wants a call. So either the device sees that the driver
        // wants a call, or this code sees the request.
        fence(Ordering::SeqCst);
        self.is_used(memory)
    }

    pub(super) fn disarm(&mut self, memory: &SharedMemory) {
        let wish = u32::from(EVENT_DISABLE) << 16;
        memory.u32(self.driver).store(wish.to_le(), Ordering::Relaxed);
    }

    /// Whether the device has marked the descriptor at the next place as used in the current lap.
    #[inline]
    fn is_used(&self, memory: &SharedMemory) -> bool {
        if self.next_used == self.next_available {
            return false; // the device has no request
        }
        let at = self.ring + usize::from(self.next_used.index) * DESCRIPTOR_LEN + 14;
        let flags = u16::from_le(memory.u16(at).load(Ordering::Acquire));
        let lap = self.next_used.wrap;
        (flags & F_AVAIL != 0) == lap && (flags & F_USED != 0) == lap
    }
}
