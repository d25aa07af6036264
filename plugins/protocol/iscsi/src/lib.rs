//! `iscsi`: the iSCSI target.
//!
//! [`model`] is the configuration, [`login`] decides who may connect, [`node`] is a target in full feature phase. These three use no
//! sockets. [`app`] owns the configuration and the logins on the app thread. After its login, a connection moves to the [`group`] whose
//! thread has its target. [`rpc`] has the methods. `docs/iscsi.md` explains the terms and the states.
#![forbid(unsafe_code)]

pub mod app;
mod config;
pub mod connection;
pub mod group;
pub mod login;
pub mod model;
pub mod node;
pub mod rpc;

use drivebay_sdk::{App, Result, Stopping, notify, plugin};

plugin! {
    name: "iscsi",
    kind: "target",
    provides: ["rpc.startup:iscsi_set_options", "rpc.last:iscsi_start_portal_group"],
    requires: [],
    methods: [
        "iscsi_set_options",
        "iscsi_get_options",
        "scsi_get_devices",
        "iscsi_set_discovery_auth",
        "iscsi_create_auth_group",
        "iscsi_delete_auth_group",
        "iscsi_get_auth_groups",
        "iscsi_auth_group_add_secret",
        "iscsi_auth_group_remove_secret",
        "iscsi_get_initiator_groups",
        "iscsi_create_initiator_group",
        "iscsi_delete_initiator_group",
        "iscsi_initiator_group_add_initiators",
        "iscsi_initiator_group_remove_initiators",
        "iscsi_get_target_nodes",
        "iscsi_create_target_node",
        "iscsi_target_node_set_auth",
        "iscsi_target_node_add_pg_ig_maps",
        "iscsi_target_node_remove_pg_ig_maps",
        "iscsi_delete_target_node",
        "iscsi_get_portal_groups",
        "iscsi_create_portal_group",
        "iscsi_start_portal_group",
        "iscsi_delete_portal_group",
        "iscsi_portal_group_set_auth",
        "iscsi_get_connections",
        "iscsi_get_stats",
        "iscsi_target_node_add_lun",
        "iscsi_target_node_set_redirect",
        "iscsi_target_node_request_logout",
        "iscsi_enable_histogram",
        "iscsi_get_histogram",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    app::Iscsi::start()?;
    rpc::register(app)?;
    notify::subsystem(app, "iscsi", config::write)
}

fn stop(_app: &App, stopping: Stopping) {
    match app::app() {
        Some(app) => app.stop(move || drop(stopping)),
        None => drop(stopping),
    }
}
