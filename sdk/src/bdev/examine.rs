//! Examination: a module looks at new bdevs and may read them.
#![expect(unsafe_code, reason = "tells the host that an examination has finished")]

use crate::app::App;
use crate::host::host;
use crate::notify::Config;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Examiner = fn(&App, Examine);

/// The function that examines new bdevs.
static EXAMINER: Mutex<Option<Examiner>> = Mutex::new(None);

/// Calls `call` for every bdev, existing and new. It may open and read the bdev, also asynchronously.
/// `[app thread]`
pub fn on_examine(_app: &App, call: Examiner) {
    *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
}

/// The functions that get the name of each new bdev, and those that save configuration of no single bdev.
static WANTED: Mutex<Wanted> = Mutex::new(Wanted { names: Vec::new(), saved: Vec::new() });

#[derive(Clone)]
struct Wanted {
    names: Vec<fn(&App, &str)>,
    saved: Vec<fn(&mut Config<'_>)>,
}

fn wanted() -> MutexGuard<'static, Wanted> {
    WANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `see` with the name of each new bdev, before any module reads the bdev. `see` opens and claims
/// the bdevs whose names the module knows, without I/O. `[app thread]`
pub fn on_examine_config(_app: &App, see: fn(&App, &str)) {
    wanted().names.push(see);
}

/// Calls `write` to save the RPC calls that belong to no single bdev. `[app thread]`
pub fn on_save_config(_app: &App, write: fn(&mut Config<'_>)) {
    wanted().saved.push(write);
}

/// A bdev under examination. `bdev_wait_for_examine` waits until this value is dropped, on the app
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
        // SAFETY: this finishes the examination that the host began; it is the only call for it.
        unsafe { (host.bdev.examine_done)(host.raw, self.token) };
    }
}

/// Passes a bdev to the module's examiner, if there is one.
pub(crate) fn examine(app: &App, examine: Examine) {
    let call = *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(call) = call {
        call(app, examine);
    }
}

/// Passes the name of a new bdev to the module.
pub(crate) fn examine_config(app: &App, name: &str) {
    super::filter::base_appears(app, name);
    let Wanted { names, .. } = wanted().clone();
    names.into_iter().for_each(|see| see(app, name));
}

/// Writes the module's part of the configuration.
pub(crate) fn save_config(config: &mut Config<'_>) {
    let Wanted { saved, .. } = wanted().clone();
    saved.into_iter().for_each(|write| write(config));
    super::filter::write_config(config);
}
