//! The core's tables, with the guard in front of them.
#![expect(
    unsafe_code,
    reason = "keeps the promises of `Core`, because the core behind it keeps them"
)]

use crate::loader::{Core, Done, Job, ProcessCore, Result};
use drivebay_check::calls::{self, Call};
use drivebay_check::guard;
use drivebay_plugin_api::{bay_bdev_module, bay_host};
use std::ffi::c_void;

/// The core of this process, with the guard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GuardedCore;

// SAFETY: the threads are the core's, and the guard's tables live as long as the process.
unsafe impl Core for GuardedCore {
    fn on_app_thread(&self) -> bool {
        ProcessCore.on_app_thread()
    }

    fn send_to_app(&self, job: Job) {
        ProcessCore.send_to_app(Box::new(move || {
            let _entered = calls::enter(Call::Method);
            job();
        }));
    }

    fn table(&self, id: &str) -> Option<*const c_void> {
        guard::table(id)
    }

    fn owned(&self, owner: *const bay_host) -> usize {
        ProcessCore.owned(owner)
    }

    fn others_use(&self, owner: *const bay_host) -> bool {
        ProcessCore.others_use(owner)
    }

    fn release_owner(&self, owner: *const bay_host, done: Job) {
        ProcessCore.release_owner(owner, done);
    }

    fn fail_owner(&self, owner: *const bay_host, marks_held: bool) {
        ProcessCore.fail_owner(owner, marks_held);
    }

    fn quarantined(&self, owner: *const bay_host) -> usize {
        ProcessCore.quarantined(owner)
    }

    fn delete_bdev(&self, owner: *const bay_host, name: &str, done: Done) -> Result<()> {
        ProcessCore.delete_bdev(owner, name, done)
    }

    unsafe fn add_bdev_module(
        &self,
        owner: *const bay_host,
        state: *mut c_void,
        table: *const bay_bdev_module,
    ) {
        // SAFETY: the caller guarantees this.
        unsafe { ProcessCore.add_bdev_module(owner, state, table) };
    }
}
