//! The plugin interface `bay.draft.worker/1`.

use super::status;
use crate::worker;
use drivebay_plugin_api::*;

pub(super) static TABLE: bay_worker_api = bay_worker_api {
    size: size_of_table::<bay_worker_api>(),
    flags: 0,
    submit: Some(submit),
    cancel: Some(cancel),
};

unsafe extern "C" fn submit(host: *const bay_host, job: *mut bay_job) -> i32 {
    // SAFETY: the plugin gives the job away until its `done` message is received.
    status(unsafe { worker::submit(host as usize, job) })
}

unsafe extern "C" fn cancel(_host: *const bay_host, job: *mut bay_job) -> i32 {
    status(worker::cancel(job))
}
