//! The tables of the plugin ABI over the core.
//!
//! Every function takes the plugin's `bay_host` first; its address is the owner of what the call
//! makes. `table` is what the loader's `get_iface` asks; `release_owner` takes back what a plugin
//! left behind.
#![expect(unsafe_code, reason = "the ABI is C functions over raw pointers")]

mod bus;
mod client;
mod memory;
mod pci;
mod threads;
mod worker;

use crate::bdev;
use crate::env::{pci::device, region};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::{bay_host, bay_str, id};
use std::ffi::c_void;

/// The core's table for an interface id, or `None` when it is not the core's.
#[must_use]
pub fn table(id: &str) -> Option<*const c_void> {
    Some(match id {
        id::BDEV => (&raw const bus::TABLE).cast(),
        id::BDEV_CLIENT => (&raw const client::TABLE).cast(),
        id::THREAD => (&raw const threads::THREAD).cast(),
        id::POLLER => (&raw const threads::POLLER).cast(),
        id::BUF => memory::buf_table().cast(),
        id::MEM => memory::mem_table().cast(),
        id::WORKER => (&raw const worker::TABLE).cast(),
        id::PCI => (&raw const pci::TABLE).cast(),
        _ => return None,
    })
}

/// How many things of the core a plugin has: bdevs and descriptors.
#[must_use]
pub fn owned(host: *const bay_host) -> usize {
    let owner = host as usize;
    bdev::device::owned(owner) + bdev::desc::owned(owner)
}

/// Takes back what a plugin left behind: modules, bdevs, jobs of workers, pollers on every thread. `done` when it is
/// all gone. App thread.
pub fn release_owner(host: *const bay_host, done: impl FnOnce() + Send + 'static) {
    let owner = host as usize;
    bdev::examine::remove_modules(owner);
    region::release_owner(owner);
    bdev::device::release_all(owner);
    for device in bdev::all().iter().filter(|device| device.owner == owner) {
        // One that is on its way out already needs nothing.
        let _ = bdev::device::unregister(device.id, |_| {});
    }
    crate::worker::end_owner(owner, move || {
        device::release_owner(owner);
        thread::for_each(
            move || thread::with_current(|thread| thread.drop_pollers_of(owner)),
            move |_| done(),
        );
    });
}

/// How many pollers of a plugin the current thread has.
#[must_use]
pub fn pollers_here(host: *const bay_host) -> usize {
    let owner = host as usize;
    thread::with_current(|thread| thread.pollers_of(owner)).unwrap_or(0)
}

/// Copies a text of the ABI; what is not UTF-8 is replaced.
///
/// # Safety
/// `text` is valid for the call.
#[must_use]
pub unsafe fn string(text: bay_str) -> String {
    if text.ptr.is_null() || text.len == 0 {
        return String::new();
    }
    // SAFETY: by the contract.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The ABI's status of a control operation.
fn status(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => failed(&error),
    }
}

/// Logs why and gives the ABI's status.
fn failed(error: &Error) -> i32 {
    tracing::debug!("{error}");
    error.status()
}

/// Refuses what plugins may call on the app thread only.
///
/// # Errors
/// `EPERM`.
fn on_app_thread() -> Result<()> {
    let current = thread::current_id();
    // 0 is no thread, and no app thread yet.
    if current != 0 && current == thread::app() {
        return Ok(());
    }
    let why = "called outside of the app thread; allowed: the app thread only";
    tracing::warn!("{why}");
    Err(Error::new(libc::EPERM, why))
}

/// A function and argument of the ABI on their way to another thread.
#[derive(Clone, Copy)]
struct Callback {
    call: Option<drivebay_plugin_api::bay_cb_fn>,
    arg: usize,
}

impl Callback {
    fn new(call: Option<drivebay_plugin_api::bay_cb_fn>, arg: *mut c_void) -> Self {
        Self { call, arg: arg as usize }
    }

    fn run(self, status: i32) {
        if let Some(call) = self.call {
            // SAFETY: function and argument came together from the plugin that waits for them.
            unsafe { call(self.arg as *mut c_void, status) };
        }
    }
}
