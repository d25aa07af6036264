//! The building blocks of the lock-free parts. `message.rs` and `announce.rs` import them only from
//! here, so that `tests/loom` can substitute its own and try every interleaving.

use std::sync::MutexGuard;

pub(super) use drivebay_plugin_api::bay_msg as Message;
pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

/// The link of a message, as an atomic.
///
/// # Safety
/// `msg` is alive.
pub(super) unsafe fn link<'a>(msg: *mut Message) -> &'a AtomicPtr<Message> {
    // SAFETY: the caller keeps the message alive.
    let field = unsafe { &raw mut (*msg).link };
    // SAFETY: it is aligned and alive, and all parties use it as an atomic while it is in the
    // queue.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// A lock that ignores poisoning: it stays usable after a panic.
pub(super) struct Mutex(std::sync::Mutex<()>);

impl Mutex {
    pub(super) fn new() -> Self {
        Self(std::sync::Mutex::new(()))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
