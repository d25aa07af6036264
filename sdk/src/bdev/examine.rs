//! New bdevs that are shown to a module, which may read them.
#![expect(unsafe_code, reason = "answers the host for an examination")]

use crate::host::host;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Who looks at new bdevs.
static EXAMINER: Mutex<Option<fn(Examine)>> = Mutex::new(None);

/// Has `call` look at every bdev that is there or comes. It may open and read the bdev, in several
/// steps if need be. `[app thread]`
pub fn on_examine(call: fn(Examine)) {
    *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
}

/// A bdev that is shown to the module. `bdev_wait_for_examine` waits until it is dropped, on the app
/// thread.
#[derive(Debug)]
pub struct Examine {
    name: String,
    token: u64,
    stays_here: PhantomData<*mut ()>,
}

impl Examine {
    pub(crate) fn new(name: &str, token: u64) -> Self {
        Self { name: name.to_owned(), token, stays_here: PhantomData }
    }

    /// Name of the bdev.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Examine {
    fn drop(&mut self) {
        let host = host();
        // SAFETY: ends the examination that the host began, once.
        unsafe { (host.bdev.examine_done)(host.raw, self.token) };
    }
}

/// Gives a bdev to who looks at new ones, if anybody does.
pub(crate) fn examine(examine: Examine) {
    let call = *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(call) = call {
        call(examine);
    }
}
