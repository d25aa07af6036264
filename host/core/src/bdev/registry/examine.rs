//! Examination: the bus shows every new bdev to every module that has an `examine` function.

use super::{desc, names};
use crate::bdev::state::{Bdev, JSON_MAX};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::{Collected, bay_bdev_module, bay_str, copy_open};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A plugin's functions for examination.
#[derive(Clone, Copy)]
struct Module {
    owner: usize,
    state: *mut c_void,
    table: bay_bdev_module,
}

// SAFETY: the state is only passed to the module's functions, on the app thread.
unsafe impl Send for Module {}

type Waiter = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    modules: Vec<Module>,
    /// Examinations under way, each with the owner of the module that examines the bdev; 0 = still queued, so no module examines it.
    open_tokens: Vec<(u64, usize)>,
    waiters: Vec<Waiter>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static AUTO: AtomicBool = AtomicBool::new(true);
static TOKEN: AtomicU64 = AtomicU64::new(1);

fn state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    f(state.get_or_insert_with(State::default))
}

/// Sets whether new bdevs are examined automatically (`bdev_set_options`, `bdev_auto_examine`).
pub fn set_auto(auto: bool) {
    AUTO.store(auto, Ordering::Relaxed);
}

/// Whether new bdevs are examined automatically.
#[must_use]
pub fn auto() -> bool {
    AUTO.load(Ordering::Relaxed)
}

/// Adds a plugin's module. The bus also shows it the bdevs that already exist. App thread.
///
/// # Safety
/// `table` and `module` belong together and stay valid until [`remove_modules`].
pub unsafe fn add_module(owner: usize, module: *mut c_void, table: *const bay_bdev_module) {
    // SAFETY: an open table of the ABI.
    let Some(table) = (unsafe { copy_open(table) }) else { return };
    state(|state| state.modules.push(Module { owner, state: module, table }));
    if auto() {
        for bdev in names::all() {
            show(&bdev.name);
        }
    }
}

/// Removes the modules of a plugin.
pub fn remove_modules(owner: usize) {
    state(|state| state.modules.retain(|module| module.owner != owner));
}

/// Queues an examination of the bdev by all modules; it runs on the app thread.
pub(super) fn show(name: &str) {
    if auto() {
        queue(name.to_owned());
    }
}

fn queue(name: String) {
    let token = TOKEN.fetch_add(1, Ordering::Relaxed);
    state(|state| state.open_tokens.push((token, 0)));
    thread::send_app(move || {
        run(&name);
        close_token(token);
    });
}

/// `bdev_examine`: examines one bdev. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev.
pub fn examine(name: &str) -> Result<()> {
    let bdev = names::find(name).ok_or_else(Error::no_such_device)?;
    queue(bdev.name.clone());
    Ok(())
}

fn run(name: &str) {
    let modules = state(|state| state.modules.clone());
    for module in &modules {
        if let Some(call) = module.table.examine_config {
            // SAFETY: function and state belong together; this is the app thread.
            unsafe { call(module.state, bay_str::new(name)) };
        }
    }
    for module in &modules {
        let Some(bdev) = names::find(name) else { return };
        // Show a claimed bdev only to the module that holds the claim, as the reference does.
        let may_read = bdev.claim().is_none() || is_claimed_by(&bdev, module.owner);
        if let Some(call) = module.table.examine_disk.filter(|_| may_read) {
            let token = TOKEN.fetch_add(1, Ordering::Relaxed);
            state(|state| state.open_tokens.push((token, module.owner)));
            // SAFETY: as above.
            unsafe { call(module.state, bay_str::new(name), token) };
        }
    }
}

/// Whether a descriptor of this owner holds a claim.
fn is_claimed_by(bdev: &Bdev, owner: usize) -> bool {
    let holders = bdev.control().claims.holders().to_vec();
    holders.into_iter().any(|id| desc::by_id(id).is_ok_and(|desc| desc.owner == owner))
}

/// A module has finished an `examine_disk`.
pub(crate) fn close_token(token: u64) {
    close_tokens(|open, _| open == token);
}

/// Ends the examinations of a failed plugin.
pub(super) fn close_tokens_of(failed: usize) {
    close_tokens(|_, owner| owner == failed);
}

fn close_tokens(is_meant: impl Fn(u64, usize) -> bool) {
    let waiters = state(|state| {
        state.open_tokens.retain(|&(token, owner)| !is_meant(token, owner));
        if state.open_tokens.is_empty() { std::mem::take(&mut state.waiters) } else { Vec::new() }
    });
    waiters.into_iter().for_each(|waiter| waiter());
}

/// Calls `waiter` when no examination is under way. App thread.
pub fn wait(waiter: impl FnOnce() + Send + 'static) {
    let mut waiter: Option<Waiter> = Some(Box::new(waiter));
    state(|state| {
        if !state.open_tokens.is_empty() {
            state.waiters.extend(waiter.take());
        }
    });
    if let Some(waiter) = waiter {
        waiter();
    }
}

/// The configuration that belongs to no single bdev, as JSON objects: one element for each module, with the module's owner.
#[must_use]
pub fn module_configs() -> Vec<(usize, String)> {
    let modules = state(|state| state.modules.clone());
    let mut texts = Vec::new();
    for module in modules {
        let Some(call) = module.table.write_config else { continue };
        let mut text = Collected::new(JSON_MAX);
        let sink = text.sink();
        // SAFETY: function and state belong together; the sink is valid for the call.
        unsafe { call(module.state, &raw const sink) };
        texts.push((module.owner, text.into_text()));
    }
    texts
}

/// Tells all modules that the host is shutting down. App thread.
pub fn fini_start() {
    for module in state(|state| state.modules.clone()) {
        if let Some(call) = module.table.fini_start {
            // SAFETY: as above.
            unsafe { call(module.state) };
        }
    }
}
