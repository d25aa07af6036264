//! `nvmf`: the NVMe over Fabrics target, apart from its fabrics.
//!
//! [`model`] is the configuration. [`controller`] has the state that hosts see. [`io`] turns I/O commands into bdev operations. These three
//! only decide. [`app`] owns the first two on the app thread. [`ops`] changes them with operations ([`tasks`]) that [`rpc`] starts.
//! [`group`] does the I/O on each poll group's thread, with the group's own copy of the namespaces. `docs/nvmf.md` explains words, states and paths.
#![forbid(unsafe_code)]

pub mod app;
mod config;
pub mod controller;
pub mod group;
pub mod io;
pub mod model;
pub mod ops;
pub mod rpc;
pub mod tasks;
#[cfg(test)]
mod tests;

use app::AppState;
use drivebay_sdk::nvmf::protocol;
use drivebay_sdk::{Result, Stopping, notify, plugin};
use std::rc::Rc;

plugin! {
    name: "nvmf",
    kind: "target",
    provides: [
        "bay.nvmf_target/1",
        "rpc.startup:nvmf_set_config",
        "rpc.startup:nvmf_set_max_subsystems",
        "rpc.startup:nvmf_set_crdt",
        "rpc.last:nvmf_subsystem_add_listener",
        "rpc.last:nvmf_subsystem_listener_set_ana_state",
    ],
    requires: [],
    methods: [
        "nvmf_create_transport",
        "nvmf_get_transports",
        "nvmf_create_subsystem",
        "nvmf_delete_subsystem",
        "nvmf_get_subsystems",
        "nvmf_subsystem_add_listener",
        "nvmf_subsystem_remove_listener",
        "nvmf_subsystem_get_listeners",
        "nvmf_subsystem_listener_set_ana_state",
        "nvmf_subsystem_set_ns_ana_group",
        "nvmf_subsystem_add_ns",
        "nvmf_subsystem_remove_ns",
        "nvmf_subsystem_add_host",
        "nvmf_subsystem_remove_host",
        "nvmf_subsystem_allow_any_host",
        "nvmf_subsystem_get_controllers",
        "nvmf_subsystem_get_qpairs",
        "nvmf_get_stats",
        "nvmf_get_targets",
        "nvmf_set_config",
        "nvmf_set_max_subsystems",
        "nvmf_set_crdt",
        "nvmf_discovery_add_referral",
        "nvmf_discovery_remove_referral",
        "nvmf_discovery_get_referrals",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(here: &drivebay_sdk::App) -> Result<()> {
    let app = AppState::start()?;
    rpc::register(here)?;
    notify::subsystem(here, "nvmf", config::write)?;
    // Last: a fabric may register from inside.
    app.serve_with(protocol::serve(here, |_, leaving| {
        if let Some(app) = app::app() {
            let task = Rc::clone(&app);
            app.tasks.spawn(async move { ops::fabric_leaves(&task, leaving).await });
        }
    })?);
    Ok(())
}

fn stop(_: &drivebay_sdk::App, stopping: Stopping) {
    if let Some(app) = app::app() {
        let task = Rc::clone(&app);
        app.tasks.spawn(async move { ops::stop(&task, stopping).await });
    }
}
