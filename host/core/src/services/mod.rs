//! The core's tables of the plugin ABI.
//!
//! Every function gets the plugin's `bay_host` first. Its address is the owner of everything that
//! the call creates. The loader's `get_iface` uses `table`; `release_owner` removes what a stopped
//! plugin left behind.
#![expect(unsafe_code, reason = "the ABI is C functions over raw pointers")]

mod bdev;
mod bdev_client;
mod memory;
mod pci;
mod threads;
mod worker;

use crate::bdev::{self as bus, desc, examine, names, removal};
use crate::env::pci::{device, events};
use crate::env::region;
use crate::reactor::{pins, thread};
use crate::{Error, Result};
use drivebay_plugin_api::{bay_host, bay_str, id};
use std::ffi::c_void;

/// Returns the core's table for an interface id; `None` when the core has no such interface.
#[must_use]
pub fn table(id: &str) -> Option<*const c_void> {
    Some(match id {
        id::BDEV => (&raw const bdev::TABLE).cast(),
        id::BDEV_CLIENT => (&raw const bdev_client::TABLE).cast(),
        id::THREAD => (&raw const threads::THREAD).cast(),
        id::POLLER => (&raw const threads::POLLER).cast(),
        id::BUF => memory::buf_table().cast(),
        id::MEM => memory::mem_table().cast(),
        id::WORKER => (&raw const worker::TABLE).cast(),
        id::PCI => (&raw const pci::TABLE).cast(),
        _ => return None,
    })
}

/// The number of bdevs and descriptors that a plugin has in the core.
#[must_use]
pub fn owned(host: *const bay_host) -> usize {
    let owner = host as usize;
    names::owned(owner) + desc::owned(owner)
}

/// Removes what a plugin left behind: modules, memory regions, name reservations, bdevs, worker
/// jobs, and pollers on every thread. Calls `done` when all of this is gone. App thread.
pub fn release_owner(host: *const bay_host, done: impl FnOnce() + Send + 'static) {
    let owner = host as usize;
    examine::remove_modules(owner);
    region::release_owner(owner);
    names::release_all(owner);
    for device in bus::all().iter().filter(|device| device.owner == owner) {
        // An error means that the bdev is already being removed.
        let _ = removal::unregister(device.id, |_| {});
    }
    crate::worker::end_owner(owner, move || {
        thread::for_each(
            move || thread::with_current(|thread| thread.drop_pollers_of(owner)),
            move |_| {
                // Close the devices after the pollers are gone, because pollers use the registers of the devices.
                device::release_owner(owner);
                pins::release(owner);
                events::release_owner(owner);
                done();
            },
        );
    });
}

/// The number of pollers that a plugin has on the current thread.
#[must_use]
pub fn pollers_here(host: *const bay_host) -> usize {
    let owner = host as usize;
    thread::with_current(|thread| thread.pollers_of(owner)).unwrap_or(0)
}

/// Copies a text of the ABI. Bytes that are not valid UTF-8 are replaced.
///
/// # Safety
/// `text` is valid for the call.
#[must_use]
pub unsafe fn string(text: bay_str) -> String {
    if text.ptr.is_null() || text.len == 0 {
        return String::new();
    }
    // SAFETY: the caller guarantees this.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// Converts the result of a control operation to an ABI status.
fn status(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => failed(&error),
    }
}

/// Logs the error at debug level and converts it to an ABI status.
fn failed(error: &Error) -> i32 {
    tracing::debug!("{error}");
    error.status()
}

/// Fails unless the caller is on the app thread.
///
/// # Errors
/// `EPERM` on any other thread.
fn on_app_thread() -> Result<()> {
    let current = thread::current_id();
    // 0 means no thread, and also that there is no app thread yet.
    if current != 0 && current == thread::app() {
        return Ok(());
    }
    let why = "called outside of the app thread; allowed: only on the app thread";
    tracing::warn!("{why}");
    Err(Error::new(libc::EPERM, why))
}

/// A function of the ABI and its argument, to be called on another thread.
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
            // SAFETY: the plugin passed the function and its argument together and waits for the
            // call.
            unsafe { call(self.arg as *mut c_void, status) };
        }
    }
}
