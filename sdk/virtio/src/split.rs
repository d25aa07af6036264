//! Split rings. virtio 1.3, section 2.7.
#![expect(unsafe_code, reason = "raw pointers access rings that the guest shares")]

use crate::chain::Chain;
use crate::inflight::{Inflight, SplitRecord};
use crate::memory::GuestMemory;
use crate::queue::{Broken, Features, Rings};
use drivebay_spec_vhost::ring::{
    AVAIL_NO_INTERRUPT, DESCRIPTOR_LEN, Descriptor, F_INDIRECT, F_NEXT, SIZE_MAX, USED_NO_NOTIFY,
    passes, split_len,
};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// # Invariants
/// The three pointers are aligned and point to a table of `size` descriptors, an available ring and a used ring of `size`
/// entries. These lie in guest memory, which stays mapped as long as the queue that owns this value.
#[derive(Debug)]
pub(crate) struct SplitRing {
    size: u16,
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    /// Next entry of the available ring. It wraps at 2^16.
    next_available: u16,
    /// Next entry of the used ring.
    next_used: u16,
    /// The used index that the driver was shown last.
    published: u16,
    features: Features,
    record: Option<SplitRecord>,
    /// Heads that the last device left in flight, the one taken last first.
    left: Vec<u16>,
}

// SAFETY: the pointers are valid on every thread, and only the owner of the ring uses them.
unsafe impl Send for SplitRing {}

impl SplitRing {
    pub(crate) fn new(
        memory: &GuestMemory,
        rings: &Rings,
        base: u32,
        features: Features,
        inflight: Option<Inflight>,
    ) -> Result<Self, Broken> {
        let size = rings.size;
        if !size.is_power_of_two() || size > SIZE_MAX {
            return Err(Broken::Size(size));
        }
        let (descriptors, available, used) = split_len(size);
        let part = |addr, len, align| memory.exact(addr, len, align).ok_or(Broken::Ring(addr));
        let mut ring = Self {
            size,
            descriptors: part(rings.descriptors, descriptors, 16)?,
            available: part(rings.available, available, 2)?,
            used: part(rings.used, used, 4)?,
            next_available: u16::try_from(base & 0xffff).unwrap_or(0),
            next_used: 0,
            published: 0,
            features,
            record: None,
            left: Vec::new(),
        };
        // The used index of the ring says how many requests the last device handed back.
        ring.next_used = u16::from_le(ring.used_index().load(Ordering::Acquire));
        ring.published = ring.next_used;
        if let Some(inflight) = inflight {
            ring.resume(inflight)?;
        }
        Ok(ring)
    }

    /// Continues from the record of the last device. Each chain that it took is in flight or was handed back.
    fn resume(&mut self, inflight: Inflight) -> Result<(), Broken> {
        let (record, left) = SplitRecord::new(inflight, self.next_used)?;
        self.record = Some(record);
        if let Some(left) = left {
            let taken = u16::try_from(left.len()).unwrap_or(u16::MAX);
            self.next_available = self.next_used.wrapping_add(taken);
            self.left = left;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, Broken> {
        if let Some(head) = self.left.pop() {
            chain.clear();
            chain.id = head;
            self.walk(memory, chain, head)?;
            return Ok(true);
        }
        let ahead = u16::from_le(self.available_index().load(Ordering::Acquire))
            .wrapping_sub(self.next_available);
        if ahead == 0 {
            return Ok(false);
        }
        if ahead > self.size {
            return Err(Broken::IndexJump { ahead });
        }
        // Even if the driver does not wait for requests to end, the device takes no more of them than the ring has entries.
        let outstanding = self.next_available.wrapping_sub(self.next_used).wrapping_add(ahead);
        if outstanding > self.size {
            return Err(Broken::IndexJump { ahead: outstanding });
        }
        let head = self.available_entry(self.next_available % self.size).load(Ordering::Relaxed);
        let head = u16::from_le(head);
        chain.clear();
        chain.id = head;
        self.walk(memory, chain, head)?;
        if let Some(record) = &mut self.record {
            record.taken(head);
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(true)
    }

    fn walk(&self, memory: &GuestMemory, chain: &mut Chain, head: u16) -> Result<(), Broken> {
        let mut index = head;
        for _ in 0..self.size {
            if index >= self.size {
                return Err(Broken::Index(index));
            }
            let descriptor = self.descriptor(index);
            if descriptor.flags & F_INDIRECT != 0 {
                if !self.features.indirect || descriptor.flags & F_NEXT != 0 {
                    return Err(Broken::Indirect);
                }
                return walk_indirect(memory, chain, descriptor);
            }
            chain.add(memory, descriptor)?;
            if descriptor.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.link;
        }
        Err(Broken::LongChain)
    }

    #[inline]
    pub(crate) fn push(&mut self, id: u16, written: u32) {
        let offset = 4 + 8 * usize::from(self.next_used % self.size);
        self.u32_at(self.used, offset).store(u32::from(id).to_le(), Ordering::Relaxed);
        self.u32_at(self.used, offset + 4).store(written.to_le(), Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(record) = &mut self.record {
            record.pushed(id);
        }
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        self.published = new;
        self.used_index().store(new.to_le(), Ordering::Release);
        if let Some(record) = &mut self.record {
            record.published(new);
        }
        // The driver first stores whether it wants a call, then reads the index. So either the driver sees the new index, or this code
        // sees that it wants a call.
        fence(Ordering::SeqCst);
        if self.features.event_idx {
            let event = self.available_entry(self.size).load(Ordering::Relaxed);
            passes(u16::from_le(event), new, old)
        } else {
            let flags = self.u16_at(self.available, 0).load(Ordering::Relaxed);
            u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0
        }
    }

    pub(crate) fn arm(&mut self) -> bool {
        if self.features.event_idx {
            self.available_event().store(self.next_available.to_le(), Ordering::Relaxed);
        } else {
            self.u16_at(self.used, 0).store(0, Ordering::Relaxed);
        }
        // The driver first adds a request, then reads whether the device wants a kick. So either the driver sees that the device wants a
        // kick, or this code sees the request.
        fence(Ordering::SeqCst);
        let available = u16::from_le(self.available_index().load(Ordering::Acquire));
        available != self.next_available || self.is_resuming()
    }

    pub(crate) fn disarm(&mut self) {
        // The flag has no effect with event indices. The driver then reaches the old event index once in 2^16 requests, which costs only a
        // needless kick.
        if !self.features.event_idx {
            self.u16_at(self.used, 0).store(USED_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    pub(crate) fn is_resuming(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn base(&self) -> u32 {
        self.next_available.into()
    }

    fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: the index is below the size, so the descriptor is in the table.
        let from = unsafe { self.descriptors.add(usize::from(index) * DESCRIPTOR_LEN) };
        Descriptor::split(read_descriptor(from))
    }

    #[inline]
    fn available_index(&self) -> &AtomicU16 {
        self.u16_at(self.available, 2)
    }

    /// An entry of the available ring. The entry behind the last one is the driver's event index.
    #[inline]
    fn available_entry(&self, at: u16) -> &AtomicU16 {
        self.u16_at(self.available, 4 + 2 * usize::from(at))
    }

    #[inline]
    fn used_index(&self) -> &AtomicU16 {
        self.u16_at(self.used, 2)
    }

    fn available_event(&self) -> &AtomicU16 {
        self.u16_at(self.used, 4 + 8 * usize::from(self.size))
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

/// Copies a descriptor out of guest memory, once.
pub(crate) fn read_descriptor(from: NonNull<u8>) -> [u8; DESCRIPTOR_LEN] {
    // SAFETY: the caller found the bytes in guest memory. The code reads only the copy.
    unsafe { from.cast::<[u8; DESCRIPTOR_LEN]>().read_volatile() }
}

/// Adds the buffers of an indirect table of a split ring.
fn walk_indirect(memory: &GuestMemory, chain: &mut Chain, table: Descriptor) -> Result<(), Broken> {
    let len = table.len as usize;
    if len == 0 || !len.is_multiple_of(DESCRIPTOR_LEN) {
        return Err(Broken::Indirect);
    }
    let entries = len / DESCRIPTOR_LEN;
    let mut index = 0_u16;
    for _ in 0..entries {
        if usize::from(index) >= entries {
            return Err(Broken::Index(index));
        }
        let addr = table.addr.wrapping_add(u64::from(index) * DESCRIPTOR_LEN as u64);
        let entry = memory.exact(addr, DESCRIPTOR_LEN, 1).ok_or(Broken::Indirect)?;
        let descriptor = Descriptor::split(read_descriptor(entry));
        if descriptor.flags & F_INDIRECT != 0 {
            return Err(Broken::Indirect);
        }
        chain.add(memory, descriptor)?;
        if descriptor.flags & F_NEXT == 0 {
            return Ok(());
        }
        index = descriptor.link;
    }
    Err(Broken::LongChain)
}
