//! The record of a split ring: the heads in flight.
//!
//! The process may die between any two stores. The stores have the order of the protocol's text. So at each point, the record
//! says either that a request is in flight or that it was handed back, and the used index decides the rest.

use super::{Inflight, Part};
use crate::queue::Broken;
use drivebay_spec_vhost::inflight::VERSION;
use drivebay_spec_vhost::inflight::split as layout;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// The heads of a split ring that are in flight.
#[derive(Debug)]
pub(crate) struct SplitRecord {
    part: Part,
    counter: u64,
    /// Heads that were handed back since the last [`published`](Self::published).
    batch: Vec<u16>,
}

impl SplitRecord {
    /// Takes over the record of the last device, at the current index of the used ring. Returns the record and the heads in flight,
    /// the one taken last first. Returns no heads when there was no device before.
    pub(crate) fn new(
        inflight: Inflight,
        used_index: u16,
    ) -> Result<(Self, Option<Vec<u16>>), Broken> {
        let part = inflight.part;
        let batch = Vec::with_capacity(part.size.into());
        let mut record = Self { part, counter: 0, batch };
        let is_new = record.part.u16(layout::VERSION).load(Relaxed) == 0;
        if is_new || !inflight.resumes {
            record.clear(used_index);
            return Ok((record, None));
        }
        record.finish_batch(used_index)?;
        let heads = record.in_flight();
        Ok((record, Some(heads)))
    }

    fn clear(&self, used_index: u16) {
        self.part.begin_clear(layout::VERSION);
        for head in 0..self.part.size {
            self.part.u8(entry(head) + layout::INFLIGHT).store(0, Relaxed);
        }
        self.part.u16(layout::NUM).store(self.part.room(), Relaxed);
        self.part.u16(layout::LAST_BATCH_HEAD).store(0, Relaxed);
        self.part.u16(layout::USED_INDEX).store(used_index, Relaxed);
        self.part.u16(layout::VERSION).store(VERSION, Release);
    }

    /// Completes a batch that the last device published without recording it, because it died in between.
    fn finish_batch(&self, used_index: u16) -> Result<(), Broken> {
        let published = used_index.wrapping_sub(self.part.u16(layout::USED_INDEX).load(Relaxed));
        if published > self.part.size {
            return Err(Broken::Inflight);
        }
        let mut head = self.part.u16(layout::LAST_BATCH_HEAD).load(Relaxed);
        for _ in 0..published {
            if head >= self.part.size {
                return Err(Broken::Inflight);
            }
            self.part.u8(entry(head) + layout::INFLIGHT).store(0, Release);
            head = self.part.u16(entry(head) + layout::NEXT).load(Relaxed);
        }
        self.part.u16(layout::USED_INDEX).store(used_index, Release);
        Ok(())
    }

    fn in_flight(&mut self) -> Vec<u16> {
        let mut taken: Vec<(u64, u16)> = (0..self.part.size)
            .filter(|&head| self.part.u8(entry(head) + layout::INFLIGHT).load(Relaxed) == 1)
            .map(|head| (self.part.u64(entry(head) + layout::COUNTER).load(Relaxed), head))
            .collect();
        taken.sort_unstable_by(|one, other| other.cmp(one));
        self.counter = taken.first().map_or(0, |(counter, _)| counter.wrapping_add(1));
        taken.into_iter().map(|(_, head)| head).collect()
    }

    /// Records that a request was taken from the ring. `head` is below the ring's size.
    #[inline]
    pub(crate) fn taken(&mut self, head: u16) {
        self.part.u64(entry(head) + layout::COUNTER).store(self.counter, Relaxed);
        self.counter = self.counter.wrapping_add(1);
        self.part.u8(entry(head) + layout::INFLIGHT).store(1, Release);
    }

    /// Records that a request is handed back with the next batch.
    #[inline]
    pub(crate) fn pushed(&mut self, head: u16) {
        let last = self.part.u16(layout::LAST_BATCH_HEAD);
        self.part.u16(entry(head) + layout::NEXT).store(last.load(Relaxed), Relaxed);
        last.store(head, Release);
        self.batch.push(head);
    }

    /// Records that the used index shows the batch.
    #[inline]
    pub(crate) fn published(&mut self, used_index: u16) {
        for head in self.batch.drain(..) {
            self.part.u8(entry(head) + layout::INFLIGHT).store(0, Release);
        }
        self.part.u16(layout::USED_INDEX).store(used_index, Release);
    }
}

fn entry(head: u16) -> usize {
    layout::HEADER_LEN + usize::from(head) * layout::ENTRY_LEN
}
