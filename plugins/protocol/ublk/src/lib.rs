//! `ublk`: bdevs as block devices of this machine's kernel, over io_uring.
//!
//! [`target`] has the disks, on the app thread. A [`disk`] makes, starts, recovers and stops a device of the kernel. Its queues
//! are served by [`queue`], each on one thread. `docs/ublk.md` has the terms and the limits.
#![forbid(unsafe_code)]

mod cores;
pub mod disk;
pub mod queue;
pub mod rpc;
pub mod target;

use drivebay_sdk::{App, Result, Stopping, notify, plugin};

plugin! {
    name: "ublk",
    kind: "target",
    provides: [],
    requires: [],
    methods: [
        "ublk_create_target",
        "ublk_destroy_target",
        "ublk_start_disk",
        "ublk_recover_disk",
        "ublk_stop_disk",
        "ublk_get_disks",
    ],
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    target::init()?;
    rpc::register(app)?;
    notify::subsystem(app, "ublk", rpc::write_config)
}

fn stop(_: &App, stopping: Stopping) {
    stopping.after("stop ublk", async {
        if let Ok(target) = target::get() {
            target.end().await;
        }
    });
}
