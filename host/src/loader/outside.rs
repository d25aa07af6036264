//! What the loader needs from the rest of the host.

use super::error::{Error, Result};
use crate::rpc::Registry;
use drivebay_plugin_api::{bay_bdev_module, bay_host};
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Work for the app thread.
pub type Job = Box<dyn FnOnce() + Send>;
/// Gets the final status: 0 or a negative errno. Called on the app thread.
pub type Done = Box<dyn FnOnce(i32) + Send>;
/// Writes a subsystem's configuration as JSON objects, separated by commas. Called on the app
/// thread.
pub type ConfigWriter = Box<dyn Fn() -> String + Send + Sync>;

/// The service tables of the core.
///
/// # Safety
/// `on_app_thread` returns true only on the one lightweight thread that runs the control plane,
/// because other code lets only that thread access what belongs to it. `table` returns tables of
/// the ABI that live as long as the process.
#[expect(unsafe_code, reason = "the loader's own safety depends on it")]
pub unsafe trait Core: Send + Sync {
    /// Whether the caller runs on the app thread.
    fn on_app_thread(&self) -> bool;
    /// Sends a job to the app thread. Any thread.
    fn send_to_app(&self, job: Job);
    /// The table of an interface; `None` when there is none with this id.
    fn table(&self, id: &str) -> Option<*const c_void>;
    /// The number of bdevs and descriptors of an instance. Pollers and threads do not count,
    /// because the plugin stops them itself.
    fn owned(&self, owner: *const bay_host) -> usize;
    /// Whether another owner has a bdev of an instance open.
    fn others_use(&self, owner: *const bay_host) -> bool;
    /// Removes everything that an instance left behind. `done` runs on the app thread when nothing
    /// of it runs any more. App thread.
    fn release_owner(&self, owner: *const bay_host, done: Job);
    /// The code of an instance panicked, and the host makes no further call into its library.
    /// `marks_held`: the library sets `bay_io.holds`. Any thread.
    fn fail_owner(&self, _owner: *const bay_host, _marks_held: bool) {}
    /// The instance may keep state that belongs to an OS thread, so no lightweight thread moves to
    /// another one until `release_owner` is done. Called before `init`. App thread.
    fn pin_threads(&self, _owner: *const bay_host, _plugin: &str) {}
    /// The number of I/Os of a failed instance that cannot complete, because a device may still
    /// access their buffers.
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
    /// Registers the plugin's `bay.bdev_module/1`. From now on the bus shows it every new bdev. App
    /// thread.
    ///
    /// # Safety
    /// `table` is a `bay_bdev_module` that belongs to `state`. Both stay valid until
    /// `release_owner`.
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
    /// Declares that the instance `owner` is a subsystem or a part of one; no writer = it has no
    /// configuration. App thread.
    fn add_subsystem(&self, owner: u64, name: &str, config: Option<ConfigWriter>);
    /// Removes the subsystems of an instance. App thread.
    fn remove_subsystems(&self, owner: u64);
    /// The code of the instance `owner`, whose host table is `table`, panicked. The SDK no longer
    /// enters the plugin's code, so the plugin cannot write its configuration. Any thread.
    fn panicked(&self, _owner: u64, _table: usize) {}
    /// The method that creates the bdev again, according to its configuration. Any thread.
    fn made_by(&self, _bdev: &str) -> Option<String> {
        None
    }
}

/// Everything that the loader needs from the host.
#[derive(Clone)]
pub struct Outside {
    /// The tables of the core.
    pub core: Arc<dyn Core>,
    /// The RPC methods.
    pub rpc: Arc<Registry>,
    /// Events and subsystems.
    pub events: Arc<dyn Events>,
    /// The level up to which log lines are wanted, `BAY_LOG_*`. Plugins read it directly.
    pub log_level: &'static AtomicU32,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}
