//! `nvme`: namespaces of NVMe controllers as bdevs, over NVMe/TCP and PCIe.
//!
//! - [`bdev`] is a namespace on the bus. `channel` is one thread's way to it, with a `leg` on each path; `legs` chooses one for each
//!   command. `io` turns I/O into commands and judges their completions. `link` runs a queue pair on its socket. The protocol itself
//!   is [`drivebay_nvme_driver::qpair`].
//! - `pci` runs the queues of controllers on PCIe, with [`drivebay_nvme_driver::pcie`]. `reach` says how to reach a controller.
//! - `controller` connects a controller, watches it, and reconnects it, on the app thread. `admin` is its admin queue. `group` is the
//!   controllers of one name and their bdevs.
//! - `discovery` follows discovery services. `hotplug` attaches controllers on PCIe as they appear.
//! - `zones` has the commands of zoned namespaces.
//! - `path` is what the app thread and the channels share about a controller, `paths` what they share about a bdev.
//! - [`rpc`] has the RPC methods.
//!
//! `docs/nvme.md` says who owns what, and what can fail.
#![forbid(unsafe_code)]

mod admin;
mod app;
pub mod bdev;
mod channel;
mod controller;
mod dial;
mod discovery;
mod group;
mod hotplug;
mod inject;
mod io;
mod leg;
mod legs;
mod link;
mod options;
mod path;
mod paths;
mod pci;
mod reach;
pub mod rpc;
mod stats;
mod view;
mod zones;

use drivebay_sdk::prelude::*;
use drivebay_sdk::{Stopping, bdev as bus};

plugin! {
    name: "nvme",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: [
        "bdev_nvme_attach_controller", "bdev_nvme_detach_controller", "bdev_nvme_get_controllers",
        "bdev_nvme_reset_controller", "bdev_nvme_enable_controller", "bdev_nvme_disable_controller",
        "bdev_nvme_get_controller_health_info", "bdev_nvme_send_cmd", "bdev_nvme_apply_firmware", "bdev_nvme_get_io_paths",
        "bdev_nvme_start_discovery", "bdev_nvme_stop_discovery", "bdev_nvme_get_discovery_info",
        "bdev_nvme_get_path_iostat", "bdev_nvme_get_transport_statistics", "bdev_nvme_add_error_injection",
        "bdev_nvme_remove_error_injection", "bdev_nvme_set_preferred_path", "bdev_nvme_set_multipath_policy",
        "bdev_nvme_set_options", "bdev_nvme_set_hotplug",
    ],
    permissions: ["pci"],
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
    stopping.after("nvme stop", async {
        if let Ok(app) = app::get() {
            app.detach_all().await;
        }
    });
}
