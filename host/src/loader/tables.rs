//! The core's tables, as the loader hands them to plugins.
#![expect(unsafe_code, reason = "promises what the loader's own proofs rest on")]

use super::outside::{Core, Job};
use drivebay_core::reactor::thread;
use drivebay_core::services;
use drivebay_plugin_api::bay_host;
use std::ffi::c_void;

/// `drivebay-core` of this process.
#[derive(Clone, Copy, Debug)]
pub struct CoreTables;

// SAFETY: the app thread is one lightweight thread from the start of the reactors to their end, and
// the core's tables are statics.
unsafe impl Core for CoreTables {
    fn on_app_thread(&self) -> bool {
        let current = thread::current_id();
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

    fn release_owner(&self, owner: *const bay_host) {
        services::release_owner(owner, || {});
    }
}
