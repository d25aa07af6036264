//! A value that belongs to the app thread, reachable from handles that do not.
#![expect(unsafe_code, reason = "moves between OS threads what only the app thread touches")]

use super::error::{Error, Result};
use super::outside::Core;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// Gives its value to the app thread only. Dropped elsewhere, the value is leaked.
pub(super) struct AppOnly<T> {
    value: ManuallyDrop<T>,
    core: Arc<dyn Core>,
}

// SAFETY: `value` is touched by `get` and `drop` only, both on the app thread alone: one
// lightweight thread, which the contract of `Core` promises, and whose moves from one reactor to
// another are messages, so that its accesses never overlap.
unsafe impl<T> Send for AppOnly<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AppOnly<T> {}

impl<T> AppOnly<T> {
    pub(super) fn new(value: T, core: Arc<dyn Core>) -> Self {
        Self { value: ManuallyDrop::new(value), core }
    }

    /// The core, for any thread.
    pub(super) fn core(&self) -> &dyn Core {
        &*self.core
    }

    /// The value.
    ///
    /// # Errors
    /// `EPERM` outside of the app thread.
    pub(super) fn get(&self) -> Result<&T> {
        if self.core.on_app_thread() {
            return Ok(&self.value);
        }
        Err(Error::new(libc::EPERM, "called outside of the app thread; allowed only there"))
    }
}

impl<T> Drop for AppOnly<T> {
    fn drop(&mut self) {
        if self.core.on_app_thread() {
            // SAFETY: dropped once, here; nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

impl<T> fmt::Debug for AppOnly<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppOnly")
    }
}
