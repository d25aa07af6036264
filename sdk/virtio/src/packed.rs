//! Packed rings. virtio 1.3, section 2.8.
#![expect(unsafe_code, reason = "raw pointers access rings that the guest shares")]

use crate::chain::Chain;
use crate::inflight::{Inflight, PackedRecord};
use crate::memory::GuestMemory;
use crate::queue::{Broken, Features, Rings};
use crate::split::read_descriptor;
use drivebay_spec_vhost::ring::{
    DESCRIPTOR_LEN, Descriptor, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, F_AVAIL, F_INDIRECT,
    F_NEXT, F_USED, F_WRITE, SIZE_MAX, passes,
};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// A place in the ring with its lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u16,
    /// The wrap counter, which changes at the end of the ring.
    pub(crate) wrap: bool,
}

impl Place {
    /// Index in the low 15 bits, wrap counter in the highest.
    pub(crate) fn from_bits(bits: u16) -> Self {
        Self { index: bits & 0x7fff, wrap: bits & 0x8000 != 0 }
    }

    pub(crate) fn bits(self) -> u16 {
        self.index | (u16::from(self.wrap) << 15)
    }

    pub(crate) fn advance(&mut self, entries: u16, size: u16) {
        // Both are at most 2^15, so the sum fits.
        self.index += entries;
        if self.index >= size {
            self.index -= size;
            self.wrap = !self.wrap;
        }
    }

    /// Whether the way from `old` to `new` passes this place. Puts all places on one line of two laps.
    pub(crate) fn is_passed(self, old: Self, new: Self, size: u16) -> bool {
        let on_line = |place: Self| {
            if place.wrap == new.wrap { place.index } else { place.index.wrapping_sub(size) }
        };
        passes(on_line(self), new.index, on_line(old))
    }
}

/// # Invariants
/// `ring` is aligned and points to `size` descriptors in guest memory. `driver` and `device` point to an event area each. All
/// stay mapped as long as the queue that owns this value. Places are below `size`.
#[derive(Debug)]
pub(crate) struct PackedRing {
    size: u16,
    ring: NonNull<u8>,
    driver: NonNull<u8>,
    device: NonNull<u8>,
    next_available: Place,
    next_used: Place,
    /// Entries of the chains that the device has.
    outstanding: u16,
    /// The first entry that was handed back since the last `publish`. The driver sees it last.
    pending: Option<Pending>,
    published: Place,
    features: Features,
    record: Option<PackedRecord>,
    /// First entries of the records of chains that the last device left in flight, the one taken last first.
    left: Vec<u16>,
}

/// The first entry of a burst. Its flags are written last, so that the driver sees the whole burst at once.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at: Place,
    written: bool,
}

// SAFETY: the pointers are valid on every thread, and only the owner of the ring uses them.
unsafe impl Send for PackedRing {}

impl PackedRing {
    pub(crate) fn new(
        memory: &GuestMemory,
        rings: &Rings,
        base: u32,
        features: Features,
        inflight: Option<Inflight>,
    ) -> Result<Self, Broken> {
        let size = rings.size;
        if size == 0 || size > SIZE_MAX {
            return Err(Broken::Size(size));
        }
        let part = |addr, len, align| memory.exact(addr, len, align).ok_or(Broken::Ring(addr));
        let [a, b, c, d] = base.to_le_bytes();
        let next_available = Place::from_bits(u16::from_le_bytes([a, b]));
        let next_used = Place::from_bits(u16::from_le_bytes([c, d]));
        for place in [next_available, next_used] {
            if place.index >= size {
                return Err(Broken::Index(place.index));
            }
        }
        let laps = if next_available.wrap == next_used.wrap { 0 } else { size };
        let outstanding = (next_available.index + laps).checked_sub(next_used.index);
        let outstanding = outstanding.filter(|&entries| entries <= size);
        let mut ring = Self {
            size,
            ring: part(rings.descriptors, usize::from(size) * DESCRIPTOR_LEN, 16)?,
            driver: part(rings.available, 4, 4)?,
            device: part(rings.used, 4, 4)?,
            next_available,
            next_used,
            outstanding: outstanding.ok_or(Broken::Index(next_available.index))?,
            pending: None,
            published: next_used,
            features,
            record: None,
            left: Vec::new(),
        };
        if let Some(inflight) = inflight {
            ring.resume(inflight)?;
        }
        Ok(ring)
    }

    /// Continues from the record of the last device. Each chain that it took is in flight or was handed back.
    fn resume(&mut self, inflight: Inflight) -> Result<(), Broken> {
        let is_available = |place| self.is_available(place);
        let (record, left) = PackedRecord::new(inflight, self.next_used, is_available)?;
        self.record = Some(record);
        let Some(left) = left else { return Ok(()) };
        (self.next_used, self.published) = (left.used, left.used);
        self.next_available = left.used;
        self.next_available.advance(left.entries, self.size);
        self.outstanding = left.entries;
        self.left = left.chains;
        self.unmark();
        Ok(())
    }

    /// Undoes a batch that the last device had not shown when it died. A device marks the first descriptor of a batch last, so
    /// the others may already look used. The driver would find them after the next chain that is handed back.
    fn unmark(&self) {
        let mut place = self.next_used;
        for _ in 0..self.outstanding {
            let flags = self.u16_at(self.ring, usize::from(place.index) * DESCRIPTOR_LEN + 14);
            let lap = if place.wrap { F_AVAIL } else { F_USED };
            flags.store(lap.to_le(), Ordering::Release);
            place.advance(1, self.size);
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, Broken> {
        if let Some(first) = self.left.pop() {
            self.pop_left(memory, chain, first)?;
            return Ok(true);
        }
        if !self.is_available(self.next_available) {
            return Ok(false);
        }
        chain.clear();
        let mut place = self.next_available;
        let mut cursor = self.record.as_ref().map(PackedRecord::begin);
        loop {
            let descriptor = self.descriptor(place.index);
            place.advance(1, self.size);
            if self.outstanding + chain.num_entries >= self.size {
                return Err(Broken::LongChain);
            }
            if let (Some(record), Some(cursor)) = (&self.record, &mut cursor) {
                record.add(cursor, descriptor)?;
            }
            if self.is_last(memory, chain, descriptor)? {
                break;
            }
        }
        if let (Some(record), Some(cursor)) = (&mut self.record, cursor) {
            chain.record = record.taken(cursor);
        }
        self.next_available = place;
        self.outstanding += chain.num_entries;
        Ok(true)
    }

    /// Takes a chain that the last device left. Its descriptors are in the record; those in the ring may be overwritten.
    fn pop_left(&self, memory: &GuestMemory, chain: &mut Chain, first: u16) -> Result<(), Broken> {
        let record = self.record.as_ref().ok_or(Broken::Inflight)?;
        let entries = record.num_entries(first);
        chain.clear();
        chain.record = first;
        let mut cursor = PackedRecord::chain(first);
        while !self.is_last(memory, chain, record.read(&mut cursor)?)? {}
        if chain.num_entries == entries { Ok(()) } else { Err(Broken::Inflight) }
    }

    /// Adds a descriptor to a chain. Returns whether it is the last one.
    #[inline]
    fn is_last(
        &self,
        memory: &GuestMemory,
        chain: &mut Chain,
        descriptor: Descriptor,
    ) -> Result<bool, Broken> {
        chain.num_entries += 1;
        if descriptor.flags & F_INDIRECT != 0 {
            let is_alone = chain.num_entries == 1 && descriptor.flags & F_NEXT == 0;
            if !self.features.indirect || !is_alone {
                return Err(Broken::Indirect);
            }
            walk_indirect(memory, chain, descriptor)?;
        } else {
            chain.add(memory, descriptor)?;
        }
        // The id is in the last descriptor of a chain.
        chain.id = descriptor.link;
        Ok(descriptor.flags & F_NEXT == 0)
    }

    #[inline]
    pub(crate) fn push(&mut self, chain: &Chain, written: u32) {
        let (id, entries) = (chain.id, chain.num_entries);
        let at = self.next_used;
        let base = usize::from(at.index) * DESCRIPTOR_LEN;
        self.u32_at(self.ring, base + 8).store(written.to_le(), Ordering::Relaxed);
        self.u16_at(self.ring, base + 12).store(id.to_le(), Ordering::Relaxed);
        match self.pending {
            None => self.pending = Some(Pending { at, written: written > 0 }),
            Some(_) => self.mark_used(at, written > 0),
        }
        self.next_used.advance(entries, self.size);
        self.outstanding = self.outstanding.saturating_sub(entries);
        if let Some(record) = &mut self.record {
            record.pushed(chain.record);
        }
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let Some(first) = self.pending.take() else { return false };
        if let Some(record) = &mut self.record {
            record.publishing(self.next_used);
        }
        self.mark_used(first.at, first.written);
        if let Some(record) = &mut self.record {
            record.published(self.next_used);
        }
        let (old, new) = (self.published, self.next_used);
        self.published = new;
        // The driver first stores whether it wants a call, then reads the ring. So either the driver sees the ended requests, or this code
        // sees that it wants a call.
        fence(Ordering::SeqCst);
        let wish = u32::from_le(self.u32_at(self.driver, 0).load(Ordering::Relaxed));
        let [a, b, c, d] = wish.to_le_bytes();
        match u16::from_le_bytes([c, d]) {
            EVENT_ENABLE => true,
            EVENT_DESC if self.features.event_idx => {
                Place::from_bits(u16::from_le_bytes([a, b])).is_passed(old, new, self.size)
            }
            _ => false,
        }
    }

    pub(crate) fn arm(&mut self) -> bool {
        let wish = if self.features.event_idx {
            u32::from(self.next_available.bits()) | u32::from(EVENT_DESC) << 16
        } else {
            u32::from(EVENT_ENABLE) << 16
        };
        self.u32_at(self.device, 0).store(wish.to_le(), Ordering::Relaxed);
        // The driver first adds a request, then reads whether the device wants a kick. So either the driver sees that the device wants a
        // kick, or this code sees the request.
        fence(Ordering::SeqCst);
        self.is_available(self.next_available) || self.is_resuming()
    }

    pub(crate) fn disarm(&mut self) {
        let wish = u32::from(EVENT_DISABLE) << 16;
        self.u32_at(self.device, 0).store(wish.to_le(), Ordering::Relaxed);
    }

    pub(crate) fn is_resuming(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn base(&self) -> u32 {
        u32::from(self.next_available.bits()) | u32::from(self.next_used.bits()) << 16
    }

    /// Whether the driver has put a descriptor there in its current lap.
    #[inline]
    fn is_available(&self, place: Place) -> bool {
        let flags = self.u16_at(self.ring, usize::from(place.index) * DESCRIPTOR_LEN + 14);
        let flags = u16::from_le(flags.load(Ordering::Acquire));
        (flags & F_AVAIL != 0) == place.wrap && (flags & F_USED != 0) != place.wrap
    }

    #[inline]
    fn mark_used(&self, at: Place, is_written: bool) {
        let lap = if at.wrap { F_AVAIL | F_USED } else { 0 };
        let flags = lap | if is_written { F_WRITE } else { 0 };
        let place = self.u16_at(self.ring, usize::from(at.index) * DESCRIPTOR_LEN + 14);
        place.store(flags.to_le(), Ordering::Release);
    }

    fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: the index of a place is below the size, so the descriptor is in the ring.
        let from = unsafe { self.ring.add(usize::from(index) * DESCRIPTOR_LEN) };
        Descriptor::packed(read_descriptor(from))
    }

    #[inline]
    fn u16_at(&self, base: NonNull<u8>, offset: usize) -> &AtomicU16 {
        // SAFETY: all callers stay within the length of the ring, which `new` checked.
        let place = unsafe { base.add(offset) };
        // SAFETY: mapped and aligned (invariant of the type). The guest accesses it with atomics of its CPU.
        unsafe { AtomicU16::from_ptr(place.as_ptr().cast()) }
    }

    #[inline]
    fn u32_at(&self, base: NonNull<u8>, offset: usize) -> &AtomicU32 {
        // SAFETY: the same reason as for the first operation of `u16_at`.
        let place = unsafe { base.add(offset) };
        // SAFETY: the same reason as for the second operation of `u16_at`.
        unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) }
    }
}

/// Adds the buffers of an indirect table of a packed ring: all entries in their order.
fn walk_indirect(memory: &GuestMemory, chain: &mut Chain, table: Descriptor) -> Result<(), Broken> {
    let len = u64::from(table.len);
    if len == 0 || !len.is_multiple_of(DESCRIPTOR_LEN as u64) {
        return Err(Broken::Indirect);
    }
    for offset in (0..len).step_by(DESCRIPTOR_LEN) {
        let addr = table.addr.wrapping_add(offset);
        let entry = memory.exact(addr, DESCRIPTOR_LEN, 1).ok_or(Broken::Indirect)?;
        let descriptor = Descriptor::packed(read_descriptor(entry));
        if descriptor.flags & F_INDIRECT != 0 {
            return Err(Broken::Indirect);
        }
        chain.add(memory, descriptor)?;
    }
    Ok(())
}
