//! `vhost`: disks for virtual machines, over vhost-user.
//!
//! [`controllers`] has the configuration. [`control`] serves the sockets on the app thread. A [`session`] has the setup of
//! one VMM, and starts a [`device`] on a lightweight thread. There [`blk`] and [`scsi`] turn the guest's requests into I/O.
//! `docs/vhost.md` has the terms, the states and the data path.
#![forbid(unsafe_code)]

pub mod blk;
pub mod control;
pub mod controllers;
pub mod device;
pub mod pace;
pub mod personality;
pub mod rpc;
pub mod scsi;
pub mod session;
pub mod socket;

#[cfg(test)]
mod tests;

use drivebay_sdk::{App, Result, Stopping, notify, plugin};

plugin! {
    name: "vhost",
    kind: "target",
    provides: [],
    requires: [],
    methods: [
        "vhost_create_blk_controller",
        "vhost_create_scsi_controller",
        "vhost_start_scsi_controller",
        "vhost_scsi_controller_add_target",
        "vhost_scsi_controller_remove_target",
        "vhost_delete_controller",
        "vhost_get_controllers",
        "vhost_controller_set_coalescing",
        "virtio_blk_create_transport",
        "virtio_blk_get_transports",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    controllers::start()?;
    rpc::register(app)?;
    notify::subsystem(app, "vhost_scsi", rpc::write_scsi_config)?;
    notify::subsystem(app, "vhost_blk", rpc::write_blk_config)
}

fn stop(_app: &App, stopping: Stopping) {
    controllers::stop(stopping);
}
