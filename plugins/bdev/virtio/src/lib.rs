//! `virtio`: disks of vhost-user back ends as bdevs.
//!
//! - [`rpc`] has the methods. `app` has the state of the plugin on the app thread.
//! - `controller` connects to a back end, watches it and connects again. `connection` sets a session up, on a worker.
//! - `device` is what a back end serves: a block device (`blk`), or a SCSI host with units (`scsi`). `agreement` is what the first
//!   session agreed on with it.
//! - `link` has the queues of the current session, which the controller shares with the channels.
//! - [`disk`] is a bdev. `channel` is its queue on one thread.
//!
//! `docs/virtio.md` has the terms and says what happens when a back end goes away.
#![forbid(unsafe_code)]

mod agreement;
mod app;
mod blk;
mod channel;
mod connection;
mod controller;
mod device;
pub mod disk;
mod link;
pub mod rpc;
mod scsi;

use drivebay_sdk::prelude::*;
use drivebay_sdk::{Stopping, bdev as bus};

plugin! {
    name: "virtio",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: [
        "bdev_virtio_attach_controller", "bdev_virtio_detach_controller",
        "bdev_virtio_scsi_get_devices", "bdev_virtio_blk_set_hotplug",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    app::init()?;
    bus::on_save_config(app, rpc::save_config);
    rpc::register(app)
}

fn stop(_: &App, stopping: Stopping) {
    stopping.after("virtio stop", async {
        if let Ok(app) = app::get() {
            app.detach_all().await;
        }
    });
}
