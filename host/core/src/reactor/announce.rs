//! Sleep without a lost wake-up.
//!
//! The sleeper announces itself, looks for work once more, and only then waits. A waker makes its
//! work visible first, then looks whether a sleeper has announced itself. Of the two orders one
//! always sees the other, because both sides have a full fence between their store and their load.

use super::sync::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(super) struct Announcement(AtomicBool);

impl Announcement {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The sleeper looks for work after this.
    pub(super) fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn revoke(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The waker has a full fence between its work and this.
    pub(super) fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
