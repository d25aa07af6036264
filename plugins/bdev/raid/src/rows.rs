//! Which rows of an array with a row log are in use: one I/O at a time changes a row, or computes its strips.
//!
//! Rows that share a slot of the log also share a lock, because a change keeps its slot until it is durable.

use crate::lane::Lane;
use crate::shared::Shared;
use drivebay_spec_raid::LogArea;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const FREE: u8 = 0;
const HELD: u8 = 1;
/// Held, and another I/O waits for it.
const WANTED: u8 = 2;

/// The row log as channels see it, and the locks of its slots.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) log: LogArea,
    locks: Box<[AtomicU8]>,
    /// Sequence number of the superblock at the start of the array, and number of the next change. Together they are unique.
    start: u64,
    next_change: AtomicU64,
}

impl Rows {
    pub(crate) fn new(log: LogArea, start: u64) -> Self {
        let locks = (0..log.slots()).map(|_| AtomicU8::new(FREE)).collect();
        Self { log, locks, start, next_change: AtomicU64::new(0) }
    }

    /// A number for a change that no other change of the array has.
    pub(crate) fn next_change(&self) -> (u64, u64) {
        (self.start, self.next_change.fetch_add(1, Ordering::Relaxed))
    }

    fn lock_of(&self, row: u64) -> Option<&AtomicU8> {
        self.locks.get(usize::try_from(self.log.slot_of(row)).ok()?)
    }

    /// Locks a row. If that fails, the holder calls [`Lane::resume_rows`] on all lanes when it has released the row.
    pub(crate) fn lock(&self, row: u64) -> bool {
        let Some(lock) = self.lock_of(row) else { return false };
        loop {
            match lock.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(WANTED) => return false,
                Err(_) => {
                    let wants =
                        lock.compare_exchange(HELD, WANTED, Ordering::Relaxed, Ordering::Relaxed);
                    if !matches!(wants, Err(FREE)) {
                        return false;
                    }
                }
            }
        }
    }

    /// Releases a row. Returns whether another I/O waits for it.
    fn unlock(&self, row: u64) -> bool {
        self.lock_of(row).is_some_and(|lock| lock.swap(FREE, Ordering::Release) == WANTED)
    }
}

impl Shared {
    /// Releases a row and wakes the I/O that waits for it. `[reactor]`
    pub(crate) fn unlock_row(&self, row: u64) {
        if self.rows.as_ref().is_some_and(|rows| rows.unlock(row)) {
            for lane in self.lanes() {
                lane.send(|lane: &Rc<Lane>| lane.resume_rows());
            }
        }
    }
}
