//! The app thread as a type: a function that is allowed only there takes an [`App`].
#![expect(unsafe_code, reason = "each entry from the host states its thread")]

use crate::error::{Error, Result, errno};
use crate::thread;
use std::marker::PhantomData;

/// Shows that this code runs on the app thread, where the control plane runs.
///
/// The SDK lends it to `start`, `stop`, methods, `create`, events and examination. A plugin cannot send it to
/// another thread and cannot keep it. A function that is allowed only on the app thread takes it as an argument.
/// The host checks the thread at run time as well, and answers `EPERM` on any other.
#[derive(Debug)]
pub struct App(PhantomData<*const ()>);

impl App {
    /// # Safety
    /// The caller is on the app thread, and the code that gets the reference cannot keep it beyond this call.
    pub(crate) const unsafe fn assume<'a>() -> &'a Self {
        &Self(PhantomData)
    }

    /// Runs `body` if this is the app thread. For code that gets no [`App`], such as a poller. `[any thread]`
    ///
    /// # Errors
    /// `EPERM` on any other thread.
    pub fn here<R>(body: impl FnOnce(&Self) -> R) -> Result<R> {
        if thread::current() != Some(thread::app()) {
            let why = "called outside of the app thread; allowed: the app thread only";
            return Err(Error::new(errno::EPERM, why));
        }
        // SAFETY: the thread was just checked; the closure cannot keep the reference.
        Ok(body(unsafe { Self::assume() }))
    }
}
