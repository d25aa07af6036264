//! New bdevs that are shown to a module, which may read them.
#![expect(unsafe_code, reason = "answers the host for an examination")]

use crate::app::App;
use crate::host::host;
use crate::notify::Config;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Examiner = fn(&App, Examine);

/// Who looks at new bdevs.
static EXAMINER: Mutex<Option<Examiner>> = Mutex::new(None);

/// Has `call` look at every bdev that is there or comes. It may open and read the bdev, in several
/// steps if need be. `[app thread]`
pub fn on_examine(_app: &App, call: Examiner) {
    *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
}

/// Who wants the name of each new bdev, and who writes calls of no single bdev.
static WANTED: Mutex<Wanted> = Mutex::new(Wanted { names: Vec::new(), saved: Vec::new() });

#[derive(Clone)]
struct Wanted {
    names: Vec<fn(&App, &str)>,
    saved: Vec<fn(&mut Config<'_>)>,
}

fn wanted() -> MutexGuard<'static, Wanted> {
    WANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `see` called with the name of each new bdev, at once and before any module reads it: it opens
/// and claims what belongs to the module by name, without I/O. `[app thread]`
pub fn on_examine_config(_app: &App, see: fn(&App, &str)) {
    wanted().names.push(see);
}

/// Has `write` write calls that make again what belongs to no single bdev. `[app thread]`
pub fn on_save_config(_app: &App, write: fn(&mut Config<'_>)) {
    wanted().saved.push(write);
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
pub(crate) fn examine(app: &App, examine: Examine) {
    let call = *EXAMINER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(call) = call {
        call(app, examine);
    }
}

/// A new bdev is shown by its name.
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
