//! The core's tables, as the loader uses them.
#![expect(unsafe_code, reason = "keeps the promises of `Core`: one app thread, tables that stay")]

use super::error::Result;
use super::outside::{Core, Done, Job};
use drivebay_core::reactor::thread;
use drivebay_core::services;
use drivebay_plugin_api::{bay_bdev_module, bay_host};
use std::ffi::c_void;

/// The core of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessCore;

// SAFETY: the app thread is one lightweight thread of the reactors. It never runs on two cores at
// the same time, and it moves by messages. The tables are statics.
unsafe impl Core for ProcessCore {
    fn on_app_thread(&self) -> bool {
        let current = thread::current_id();
        // 0 means no thread, and also that there is no app thread yet.
        current != 0 && current == thread::app()
    }

    fn send_to_app(&self, job: Job) {
        thread::send_app(job);
    }

    fn table(&self, id: &str) -> Option<*const c_void> {
        services::table(id)
    }

    fn owned(&self, owner: *const bay_host) -> usize {
        services::owned(owner)
    }

    fn others_use(&self, owner: *const bay_host) -> bool {
        drivebay_core::bdev::desc::others_use(owner as usize)
    }

    fn release_owner(&self, owner: *const bay_host, done: Job) {
        services::release_owner(owner, done);
    }

    fn fail_owner(&self, owner: *const bay_host, marks_held: bool) {
        drivebay_core::bdev::failed::fail(owner as usize, marks_held);
    }

    fn pin_threads(&self, owner: *const bay_host, plugin: &str) {
        drivebay_core::reactor::pins::add(owner as usize, plugin);
    }

    fn quarantined(&self, owner: *const bay_host) -> usize {
        drivebay_core::bdev::failed::quarantined(owner as usize)
    }

    fn delete_bdev(&self, owner: *const bay_host, name: &str, done: Done) -> Result<()> {
        drivebay_core::bdev::removal::delete_failed(owner as usize, name, done)
    }

    unsafe fn add_bdev_module(
        &self,
        owner: *const bay_host,
        state: *mut c_void,
        table: *const bay_bdev_module,
    ) {
        // SAFETY: the caller guarantees this.
        unsafe { drivebay_core::bdev::examine::add_module(owner as usize, state, table) };
    }
}
