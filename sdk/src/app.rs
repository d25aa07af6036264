//! The app thread as a type: what may be called only there wants an [`App`].
#![expect(unsafe_code, reason = "entries of the host state on which thread they run")]

use crate::error::{Error, Result, errno};
use crate::thread;
use std::marker::PhantomData;

/// Shows that this code runs on the app thread, where the control plane runs.
///
/// The SDK lends it to `start`, `stop`, methods, `create`, events and examination. It cannot be sent
/// to another thread, and it cannot be kept: it is only ever lent. What may be called only on the app
/// thread takes it as an argument. The host checks the same at run time and answers `EPERM`.
#[derive(Debug)]
pub struct App(PhantomData<*const ()>);

impl App {
    /// # Safety
    /// Only the app thread runs the code that gets the reference, and that code cannot keep it.
    pub(crate) const unsafe fn assume<'a>() -> &'a Self {
        &Self(PhantomData)
    }

    /// Runs `body` if this is the app thread: for code that another way has brought there, such as a
    /// poller. `[any thread]`
    ///
    /// # Errors
    /// `EPERM` on any other thread.
    pub fn here<R>(body: impl FnOnce(&Self) -> R) -> Result<R> {
        if thread::current() != Some(thread::app()) {
            let why = "called outside of the app thread; allowed: the app thread only";
            return Err(Error::new(errno::EPERM, why));
        }
        // SAFETY: just checked; the closure cannot keep the reference.
        Ok(body(unsafe { Self::assume() }))
    }
}
