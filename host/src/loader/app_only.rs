//! Lets a handle that any thread may own contain a value that only the app thread may use.
#![expect(unsafe_code, reason = "moves between OS threads what only the app thread touches")]

use super::error::{Error, Result};
use super::outside::Core;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, mpsc};

/// Gives access to its value only on the app thread. If it is dropped on another thread, it leaks
/// the value.
pub(super) struct AppOnly<T> {
    value: ManuallyDrop<T>,
    core: Arc<dyn Core>,
}

// SAFETY: only `get` and `drop` touch `value`, both only on the app thread. That is one lightweight
// thread (contract of `Core`), and it moves from one reactor to another by messages, so its
// accesses never overlap.
unsafe impl<T> Send for AppOnly<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AppOnly<T> {}

impl<T> AppOnly<T> {
    pub(super) fn new(value: T, core: Arc<dyn Core>) -> Self {
        Self { value: ManuallyDrop::new(value), core }
    }

    /// The core, which any thread may use.
    pub(super) fn core(&self) -> &dyn Core {
        &*self.core
    }

    /// Runs `work` with the value on the app thread and waits for the result. On the app thread it
    /// runs at once.
    ///
    /// # Errors
    /// `ESHUTDOWN` when the host stops in the meantime.
    pub(super) fn run<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&T) -> R + Send + 'static,
    ) -> Result<R>
    where
        T: 'static,
    {
        if let Ok(value) = self.get() {
            return Ok(work(value));
        }
        let (sender, result) = mpsc::channel();
        let this = Arc::downgrade(self);
        self.core.send_to_app(Box::new(move || {
            let Some(this) = this.upgrade() else { return };
            if let Ok(value) = this.get() {
                // The receiver waits, so the send cannot fail.
                let _ = sender.send(work(value));
            }
        }));
        result.recv().map_err(|_| Error::new(libc::ESHUTDOWN, "the host is stopping"))
    }

    /// Borrows the value.
    ///
    /// # Errors
    /// `EPERM` outside of the app thread.
    pub(super) fn get(&self) -> Result<&T> {
        if self.core.on_app_thread() {
            return Ok(&self.value);
        }
        Err(Error::new(
            libc::EPERM,
            "called outside of the app thread; allowed: only on the app thread",
        ))
    }
}

impl<T> Drop for AppOnly<T> {
    fn drop(&mut self) {
        if self.core.on_app_thread() {
            // SAFETY: this is the only drop, and nothing uses the value afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

impl<T> fmt::Debug for AppOnly<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppOnly")
    }
}
