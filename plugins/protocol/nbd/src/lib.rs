//! `nbd`: bdevs over NBD.
//!
//! [`registry`] has the servers, their exports and the kernel's disks, on the app thread. A [`server`] passes each
//! client to a [`share`], which has the connections of one thread. There the client negotiates ([`negotiate`]), and then
//! its requests become I/O ([`connection`]). A [`disk`] of the kernel needs no negotiation, because `netlink` gives the
//! kernel one end of a socket pair. `docs/nbd.md` has the terms and the limits.
#![forbid(unsafe_code)]

pub mod connection;
pub mod disk;
pub mod export;
pub mod negotiate;
mod netlink;
pub mod registry;
pub mod rpc;
pub mod server;
pub mod share;

use drivebay_sdk::{App, Result, Stopping, notify, plugin};

plugin! {
    name: "nbd",
    kind: "target",
    provides: [],
    requires: [],
    methods: [
        "nbd_start_disk",
        "nbd_stop_disk",
        "nbd_get_disks",
        "nbd_create_server",
        "nbd_delete_server",
        "nbd_get_servers",
        "nbd_server_add_export",
        "nbd_server_remove_export",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    registry::Registry::start()?;
    rpc::register(app)?;
    notify::subsystem(app, "nbd", rpc::write_config)
}

fn stop(_app: &App, stopping: Stopping) {
    registry::stop(stopping);
}
