//! Shadow doorbells: doorbells in memory, which cost no access to the device. The controller says by event indexes when it wants the
//! register to be written as well. NVMe Base 2.0, sections 5.8 and B.5.

use super::Memory;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The doorbells and event indexes of all queues of a controller, one page each. The stride of the controller's doorbells (CAP.DSTRD) is 0:
/// the word of a queue pair is at the queue identifier, with the submission queue in its lower half.
pub struct Shadow<M> {
    doorbells: Arc<M>,
    events: Arc<M>,
}

impl<M> Clone for Shadow<M> {
    fn clone(&self) -> Self {
        Self { doorbells: Arc::clone(&self.doorbells), events: Arc::clone(&self.events) }
    }
}

impl<M> fmt::Debug for Shadow<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").finish_non_exhaustive()
    }
}

impl<M: Memory> Shadow<M> {
    /// The memory of the doorbells and of the event indexes, a page each.
    #[must_use]
    pub const fn new(doorbells: Arc<M>, events: Arc<M>) -> Self {
        Self { doorbells, events }
    }

    /// The addresses of the two pages, for Doorbell Buffer Config.
    #[must_use]
    pub fn iovas(&self) -> [u64; 2] {
        [self.doorbells.iova(), self.events.iova()]
    }

    /// Whether the pages have room for the queue.
    pub(super) fn has(&self, qid: u16) -> bool {
        let words = self.doorbells.words().min(self.events.words());
        usize::from(qid) < words
    }

    /// Forgets the last queue with this identifier. Call it before the controller creates the queue.
    pub fn clear(&self, qid: u16) {
        self.doorbells.store(qid.into(), 0);
        self.events.store(qid.into(), 0);
    }

    /// Stores both doorbells of a queue pair, and returns the event indexes of the submission queue and of the completion queue.
    #[inline]
    pub(super) fn publish(&self, qid: u16, tail: u16, head: u16) -> [u16; 2] {
        // The controller may read the commands as soon as it sees the new tail.
        fence(Ordering::Release);
        self.doorbells.store(qid.into(), u64::from(tail) | u64::from(head) << 32);
        // The event index is read after the store. Otherwise the controller could go to sleep in between, and nobody would wake it.
        fence(Ordering::SeqCst);
        let events = self.events.load(qid.into());
        [events, events >> 32].map(|event| u16::try_from(event & 0xffff).unwrap_or(0))
    }
}

/// Whether the controller wants the register to be written when a doorbell changes from `told` to `now`: the event index is among the
/// values that it passes.
#[inline]
pub(super) const fn is_awaited(event: u16, now: u16, told: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(told)
}

#[cfg(test)]
mod tests {
    use super::is_awaited;

    #[test]
    fn the_register_is_written_when_the_doorbell_passes_the_event_index() {
        assert!(is_awaited(4, 5, 4));
        assert!(is_awaited(4, 9, 3));
        assert!(!is_awaited(9, 9, 4));
        assert!(!is_awaited(3, 9, 4));
        // A doorbell that starts again at the beginning of the queue is told in any case.
        assert!(is_awaited(62, 1, 60));
    }
}
