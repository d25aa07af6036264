//! What the lock-free parts are made of: `message.rs` and `announce.rs` name it from here only, so that
//! `tests/loom` can put its own in the place and try every interleaving.

use std::sync::MutexGuard;

pub(super) use drivebay_plugin_api::bay_msg as Message;
pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

/// The link of a message as the atomic that it is.
///
/// # Safety
/// `msg` is alive.
pub(super) unsafe fn link<'a>(msg: *mut Message) -> &'a AtomicPtr<Message> {
    // SAFETY: the caller keeps the message alive.
    let field = unsafe { &raw mut (*msg).link };
    // SAFETY: aligned and alive; all parties use it as an atomic while it is in the queue.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// A lock that nobody's panic takes away.
pub(super) struct Mutex(std::sync::Mutex<()>);

impl Mutex {
    pub(super) fn new() -> Self {
        Self(std::sync::Mutex::new(()))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
