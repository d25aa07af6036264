//! `iscsi-initiator`: units of iSCSI targets as bdevs.
//!
//! - [`bdev`] is a unit on the bus. `channel` has one thread's session with the unit, and its I/O. `request` is an I/O with the count of
//!   its retries. `drivebay_scsi::initiator` turns I/O into commands, judges their results, and reads what a unit is.
//! - [`session`] is the protocol after the login, without a socket. `outbox` has the bytes that a session must send. `login` connects
//!   and logs in. `probe` logs in and asks the unit what it is.
//! - `disk` is a unit as all threads share it. `url` parses the address of a unit. [`rpc`] has the methods, and `app` has the disks.
//!
//! `docs/iscsi-initiator.md` says who owns what, and what can fail.
#![forbid(unsafe_code)]

mod app;
pub mod bdev;
mod channel;
mod disk;
mod login;
mod outbox;
mod probe;
mod request;
pub mod rpc;
pub mod session;
mod url;

use drivebay_sdk::prelude::*;
use drivebay_sdk::{Stopping, bdev as bus};

plugin! {
    name: "iscsi-initiator",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: ["bdev_iscsi_create", "bdev_iscsi_delete", "bdev_iscsi_set_options"],
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
    stopping.after("iscsi-initiator stop", async {
        if let Ok(known) = app::get() {
            known.delete_all().await;
        }
    });
}
