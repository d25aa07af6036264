//! `iscsi-initiator`: units of iSCSI targets as bdevs.
//!
//! - [`bdev`] is a unit on the bus. `channel` is one thread's way to it: a session of its own, the I/O outstanding, and the I/O that
//!   waits. `command` turns I/O into commands and judges how they ended.
//! - [`session`] is the protocol after the login, without a socket, and `outbox` what it has to send. `login` connects and logs in. `probe` asks a target what the unit is.
//! - `disk` is what all threads share of a unit. [`rpc`] has the methods, `app` the disks.
//!
//! `docs/iscsi-initiator.md` says who owns what, and what can fail.
#![forbid(unsafe_code)]

mod app;
pub mod bdev;
mod channel;
mod command;
mod disk;
mod login;
mod outbox;
mod probe;
pub mod rpc;
pub mod session;
mod url;

use drivebay_sdk::bdev as bus;
use drivebay_sdk::prelude::*;

plugin! {
    name: "iscsi-initiator",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: ["bdev_iscsi_create", "bdev_iscsi_delete", "bdev_iscsi_set_options"],
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    app::init()?;
    bus::on_save_config(app, rpc::save_config);
    rpc::register(app)
}

fn stop(_: &App, stopping: drivebay_sdk::Stopping) {
    app::delete_all(move || drop(stopping));
}
