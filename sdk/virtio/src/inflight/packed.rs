//! The record of a packed ring: copies of the descriptors of every chain in flight, because a chain that the device hands back
//! overwrites descriptors of other chains.
//!
//! The process may die between any two stores. A batch that was handed back counts when the ring shows its first descriptor.
//! Until then, the header also keeps the values from before the batch.

use super::{Inflight, Part};
use crate::packed::Place;
use crate::queue::Broken;
use drivebay_spec_vhost::inflight::VERSION;
use drivebay_spec_vhost::inflight::packed as layout;
use drivebay_spec_vhost::ring::Descriptor;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// The chains of a packed ring that are in flight.
#[derive(Debug)]
pub(crate) struct PackedRecord {
    part: Part,
    counter: u64,
    /// The place behind the last complete batch.
    complete: Place,
    /// First entries of the chains that were handed back since the last [`published`](Self::published).
    batch: Vec<u16>,
}

/// The chains that the last device left in flight.
#[derive(Debug)]
pub(crate) struct Left {
    /// The place where the next chain is handed back.
    pub(crate) used: Place,
    /// Entries of the ring that the chains in flight take.
    pub(crate) entries: u16,
    /// First entries of their records, the one taken last first.
    pub(crate) chains: Vec<u16>,
}

/// A walk over the entries of one chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    first: u16,
    /// Entry of the next descriptor.
    next: u16,
    last: u16,
    count: u16,
}

impl PackedRecord {
    /// Takes over the record of the last device. Returns no [`Left`] when there was no device before. `base` is the place where a
    /// ring without a record begins. `is_available`: whether a place of the ring still has the driver's descriptor of that lap.
    pub(crate) fn new(
        inflight: Inflight,
        base: Place,
        is_available: impl Fn(Place) -> bool,
    ) -> Result<(Self, Option<Left>), Broken> {
        let part = inflight.part;
        let batch = Vec::with_capacity(part.size.into());
        let mut record = Self { part, counter: 0, complete: base, batch };
        let is_new = record.part.u16(layout::VERSION).load(Relaxed) == 0;
        if is_new || !inflight.resumes {
            record.clear(base);
            return Ok((record, None));
        }
        let used = record.finish_batch(is_available)?;
        record.complete = used;
        record.clear_free_entries();
        let left = record.in_flight(used)?;
        Ok((record, Some(left)))
    }

    fn clear(&self, base: Place) {
        self.part.begin_clear(layout::VERSION);
        for index in 0..self.part.size {
            self.part.u8(entry(index) + layout::INFLIGHT).store(0, Relaxed);
            self.part.u16(entry(index) + layout::NEXT).store(index + 1, Relaxed);
        }
        self.part.u16(layout::NUM).store(self.part.room(), Relaxed);
        self.part.u16(layout::FREE_HEAD).store(0, Relaxed);
        self.part.u16(layout::OLD_FREE_HEAD).store(0, Relaxed);
        self.set_used(base, base);
        self.part.u16(layout::VERSION).store(VERSION, Release);
    }

    /// Completes or undoes a batch that was interrupted when the last device died. If the ring shows the batch to the driver, it is
    /// completed. Returns the place of the next chain.
    fn finish_batch(&self, is_available: impl Fn(Place) -> bool) -> Result<Place, Broken> {
        let (new, old) = self.used()?;
        let (free, old_free) =
            (self.part.u16(layout::FREE_HEAD), self.part.u16(layout::OLD_FREE_HEAD));
        if new != old && !is_available(old) {
            old_free.store(free.load(Relaxed), Release);
            self.set_used(new, new);
            return Ok(new);
        }
        free.store(old_free.load(Relaxed), Release);
        self.set_used(old, old);
        Ok(old)
    }

    /// The place of the next chain, and the place behind the last complete batch.
    fn used(&self) -> Result<(Place, Place), Broken> {
        let [a, b, c, d, wrap, old_wrap, ..] =
            self.part.u64(layout::USED_INDEX).load(Relaxed).to_le_bytes();
        let new = Place { index: u16::from_le_bytes([a, b]), wrap: wrap & 1 == 1 };
        let old = Place { index: u16::from_le_bytes([c, d]), wrap: old_wrap & 1 == 1 };
        let is_sound = new.index < self.part.size && old.index < self.part.size;
        is_sound.then_some((new, old)).ok_or(Broken::Inflight)
    }

    /// Stores both places at once, so that a place never appears with the wrap counter of the other one.
    fn set_used(&self, new: Place, old: Place) {
        let ([a, b], [c, d]) = (new.index.to_le_bytes(), old.index.to_le_bytes());
        let word = u64::from_le_bytes([a, b, c, d, new.wrap.into(), old.wrap.into(), 0, 0]);
        self.part.u64(layout::USED_INDEX).store(word, Release);
    }

    fn clear_free_entries(&self) {
        let mut free = self.part.u16(layout::FREE_HEAD).load(Relaxed);
        for _ in 0..self.part.size {
            if free >= self.part.size {
                return;
            }
            self.part.u8(entry(free) + layout::INFLIGHT).store(0, Release);
            free = self.part.u16(entry(free) + layout::NEXT).load(Relaxed);
        }
    }

    fn in_flight(&mut self, used: Place) -> Result<Left, Broken> {
        let mut taken: Vec<(u64, u16)> = (0..self.part.size)
            .filter(|&first| self.part.u8(entry(first) + layout::INFLIGHT).load(Relaxed) == 1)
            .map(|first| (self.part.u64(entry(first) + layout::COUNTER).load(Relaxed), first))
            .collect();
        taken.sort_unstable_by(|one, other| other.cmp(one));
        self.counter = taken.first().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let chains: Vec<u16> = taken.into_iter().map(|(_, first)| first).collect();
        let mut entries = 0_u16;
        for &first in &chains {
            entries = entries.saturating_add(self.num_entries(first));
        }
        if entries > self.part.size {
            return Err(Broken::Inflight);
        }
        Ok(Left { used, entries, chains })
    }

    /// The number of entries of a recorded chain, according to the record.
    pub(crate) fn num_entries(&self, first: u16) -> u16 {
        self.part.u16(entry(first) + layout::NUM_ENTRIES).load(Relaxed)
    }

    /// Begins to record a chain.
    pub(crate) fn begin(&self) -> Cursor {
        let first = self.part.u16(layout::OLD_FREE_HEAD).load(Relaxed);
        Cursor { first, next: first, last: first, count: 0 }
    }

    /// Begins to read a recorded chain.
    pub(crate) fn chain(first: u16) -> Cursor {
        Cursor { first, next: first, last: first, count: 0 }
    }

    /// Records the next descriptor of a chain.
    pub(crate) fn add(&self, at: &mut Cursor, descriptor: Descriptor) -> Result<(), Broken> {
        let place = entry(self.advance(at)?);
        self.part.u16(place + layout::ID).store(descriptor.link, Relaxed);
        self.part.u16(place + layout::FLAGS).store(descriptor.flags, Relaxed);
        self.part.u32(place + layout::LEN).store(descriptor.len, Relaxed);
        self.part.u64(place + layout::ADDR).store(descriptor.addr, Relaxed);
        Ok(())
    }

    /// Reads the next descriptor of a recorded chain.
    pub(crate) fn read(&self, at: &mut Cursor) -> Result<Descriptor, Broken> {
        let place = entry(self.advance(at)?);
        Ok(Descriptor {
            addr: self.part.u64(place + layout::ADDR).load(Relaxed),
            len: self.part.u32(place + layout::LEN).load(Relaxed),
            flags: self.part.u16(place + layout::FLAGS).load(Relaxed),
            link: self.part.u16(place + layout::ID).load(Relaxed),
        })
    }

    fn advance(&self, at: &mut Cursor) -> Result<u16, Broken> {
        if at.next >= self.part.size || at.count >= self.part.size {
            return Err(Broken::Inflight);
        }
        at.last = at.next;
        at.count += 1;
        at.next = self.part.u16(entry(at.last) + layout::NEXT).load(Relaxed);
        Ok(at.last)
    }

    /// Records that the chain was taken from the ring. Returns its first entry, for [`pushed`](Self::pushed).
    pub(crate) fn taken(&mut self, at: Cursor) -> u16 {
        let first = entry(at.first);
        self.part.u16(first + layout::LAST).store(at.last, Relaxed);
        self.part.u16(first + layout::NUM_ENTRIES).store(at.count, Relaxed);
        self.part.u64(first + layout::COUNTER).store(self.counter, Relaxed);
        self.counter = self.counter.wrapping_add(1);
        self.part.u8(first + layout::INFLIGHT).store(1, Release);
        self.part.u16(layout::FREE_HEAD).store(at.next, Release);
        self.part.u16(layout::OLD_FREE_HEAD).store(at.next, Release);
        at.first
    }

    /// Records that a chain is handed back with the next batch.
    pub(crate) fn pushed(&mut self, first: u16) {
        self.batch.push(first);
    }

    /// Records that the ring is about to show the batch. `used` is the place behind it.
    pub(crate) fn publishing(&mut self, used: Place) {
        let mut free = self.part.u16(layout::FREE_HEAD).load(Relaxed);
        for &first in &self.batch {
            let last = self.part.u16(entry(first) + layout::LAST).load(Relaxed);
            // A VMM that overwrites the area loses entries of its own ring. The ring breaks when it has none left.
            if last < self.part.size {
                self.part.u16(entry(last) + layout::NEXT).store(free, Relaxed);
            }
            free = first;
        }
        self.part.u16(layout::FREE_HEAD).store(free, Release);
        self.set_used(used, self.complete);
    }

    /// Records that the ring shows the batch.
    pub(crate) fn published(&mut self, used: Place) {
        for first in self.batch.drain(..) {
            self.part.u8(entry(first) + layout::INFLIGHT).store(0, Release);
        }
        let free = self.part.u16(layout::FREE_HEAD).load(Relaxed);
        self.part.u16(layout::OLD_FREE_HEAD).store(free, Release);
        self.set_used(used, used);
        self.complete = used;
    }
}

fn entry(index: u16) -> usize {
    layout::HEADER_LEN + usize::from(index) * layout::ENTRY_LEN
}
