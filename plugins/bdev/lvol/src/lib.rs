//! `lvol`: logical volumes in a store on a base bdev.
//!
//! - [`volume`] is the data path: it looks into `map` once, and then passes the I/O on to the base. A
//!   first write waits until the store has allocated the cluster.
//! - `stores` holds the open stores. They live on the app thread, which is their metadata thread. `on_bus`
//!   puts their volumes on the bus, `requests` serves the data path, and `examine` looks at new bdevs. `base`
//!   is the disk that [`drivebay_blobstore`] writes through.
//! - [`methods`] are the calls of the control plane.
//!
//! `docs/lvol.md` says who owns what, and which operations exclude each other.
#![forbid(unsafe_code)]

mod base;
mod examine;
mod map;
pub mod methods;
mod on_bus;
mod requests;
mod source;
mod span;
mod stores;
#[cfg(test)]
mod tests;
pub mod volume;

use drivebay_sdk::prelude::*;
use drivebay_sdk::{Stopping, bdev};

plugin! {
    name: "lvol",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: [
        "bdev_lvol_create_lvstore", "bdev_lvol_delete_lvstore", "bdev_lvol_rename_lvstore",
        "bdev_lvol_grow_lvstore", "bdev_lvol_get_lvstores", "bdev_lvol_get_lvols",
        "bdev_lvol_create", "bdev_lvol_delete", "bdev_lvol_rename", "bdev_lvol_resize",
        "bdev_lvol_set_read_only", "bdev_lvol_snapshot", "bdev_lvol_clone",
        "bdev_lvol_clone_bdev", "bdev_lvol_inflate", "bdev_lvol_decouple_parent",
        "bdev_lvol_set_parent", "bdev_lvol_set_parent_bdev", "bdev_lvol_start_shallow_copy",
        "bdev_lvol_check_shallow_copy",
        "bdev_lvol_check_lvstore", "bdev_lvol_repair_lvstore",
        "bdev_lvol_start_deep_copy", "bdev_lvol_check_deep_copy",
        "bdev_lvol_get_xattr", "bdev_lvol_set_xattr",
        "bdev_lvol_get_fragmap", "bdev_lvol_get_snapshot_checksum",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    bdev::on_examine(app, examine::examine);
    methods::register(app)
}

fn stop(_: &App, stopping: Stopping) {
    stores::close_all(stopping);
}
