//! What the loader needs of the rest of the host.

use super::error::{Error, Result};
use crate::rpc::Registry;
use drivebay_plugin_api::{bay_bdev_module, bay_host};
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Work for the app thread.
pub type Job = Box<dyn FnOnce() + Send>;
/// Gets the status with which something ended: 0 or a negative errno. Called on the app thread.
pub type Done = Box<dyn FnOnce(i32) + Send>;
/// Writes a subsystem's configuration: JSON objects, comma-separated. Called on the app thread.
pub type ConfigWriter = Box<dyn Fn() -> String + Send + Sync>;

/// The service tables of the core.
///
/// # Safety
/// `on_app_thread` must be true only on the one lightweight thread on which the control plane
/// runs: what belongs to that thread is reached by it alone. `table` must give tables of the ABI
/// that live as long as the process.
#[expect(unsafe_code, reason = "the loader's own proofs rest on it")]
pub unsafe trait Core: Send + Sync {
    /// Whether the caller runs on the app thread.
    fn on_app_thread(&self) -> bool;
    /// Has the app thread do something soon. Any thread.
    fn send_to_app(&self, job: Job);
    /// The table of an interface; `None` when there is none of that id.
    fn table(&self, id: &str) -> Option<*const c_void>;
    /// How many things of an instance are in use or hold others: bdevs, descriptors, io_devices.
    /// What only runs (pollers, threads) does not count: a plugin stops that itself.
    fn owned(&self, owner: *const bay_host) -> usize;
    /// Whether somebody else has a bdev of an instance open.
    fn others_use(&self, owner: *const bay_host) -> bool;
    /// Takes back what an instance left, of whatever kind; `done` runs on the app thread once
    /// nothing of it runs any more. App thread.
    fn release_owner(&self, owner: *const bay_host, done: Job);
    /// The code of an instance panicked, and its library takes no further call. `marks_held`: it sets `bay_io.holds`. Any thread.
    fn fail_owner(&self, _owner: *const bay_host, _marks_held: bool) {}
    /// How many I/Os of a failed instance cannot end, because a device may still touch their buffers.
    fn quarantined(&self, _owner: *const bay_host) -> usize {
        0
    }
    /// Deletes a bdev of a failed instance, and calls `done` when it is gone. App thread.
    ///
    /// # Errors
    /// `ENODEV` when the instance has no bdev of that name.
    fn delete_bdev(&self, _owner: *const bay_host, _name: &str, _done: Done) -> Result<()> {
        Err(Error::no_such_device())
    }
    /// Takes the plugin's `bay.bdev_module/1`, which is shown every new bdev from now on. App thread.
    ///
    /// # Safety
    /// `table` is a `bay_bdev_module` that belongs to `state`; both are valid until `release_owner`.
    unsafe fn add_bdev_module(
        &self,
        owner: *const bay_host,
        state: *mut c_void,
        table: *const bay_bdev_module,
    );
}

/// Events and subsystems of the control plane.
pub trait Events: Send + Sync {
    /// Appends an event for `notify_get_notifications`. Any thread.
    fn notify(&self, kind: &str, context: &str);
    /// Declares that instance `owner` is (part of) a subsystem; no writer = nothing to write. App thread.
    fn add_subsystem(&self, owner: u64, name: &str, config: Option<ConfigWriter>);
    /// Takes back the subsystems of an instance. App thread.
    fn remove_subsystems(&self, owner: u64);
    /// Code of instance `owner`, whose host table is `table`, panicked: its SDK enters it no more, so it
    /// cannot say what its configuration is. Any thread.
    fn panicked(&self, _owner: u64, _table: usize) {}
    /// The method that makes a bdev again, by its configuration. Any thread.
    fn made_by(&self, _bdev: &str) -> Option<String> {
        None
    }
}

/// All of it.
#[derive(Clone)]
pub struct Outside {
    /// Tables of the core.
    pub core: Arc<dyn Core>,
    /// The RPC methods.
    pub rpc: Arc<Registry>,
    /// Events and subsystems.
    pub events: Arc<dyn Events>,
    /// Level up to which log lines are wanted, `BAY_LOG_*`; plugins read it where it lies.
    pub log_level: &'static AtomicU32,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}
