//! Sleep without lost wake-ups.
//!
//! The sleeper announces itself, checks for work once more, and only then waits. A waker first
//! makes its work visible, then checks whether a sleeper has announced itself. Both sides have a
//! full fence between their store and their load, so at least one of them sees the other.

use super::sync::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(super) struct Announcement(AtomicBool);

impl Announcement {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces the sleep. The sleeper must check for work after this.
    pub(super) fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn revoke(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a sleeper has announced itself. The waker must have a full fence between its work
    /// and this call.
    pub(super) fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
