//! `raid`: joins several base bdevs into one array.
//!
//! - Data path: `striped` (raid0, concat) passes each I/O unchanged to one member. `redundant` (raid1, raid10)
//!   `parity` (raid5f) and `row_io` (raid5, raid6) send children; each thread has its own `lane`.
//! - App thread: owns each [`mod@array`]. `assemble` finds arrays by their superblocks, `members` adds and removes
//!   members, `grow` makes arrays larger, `rebuild` copies data to new members, `repair` repairs blocks, `scrub` looks for bad
//!   ones. They use `copy`.
//!   `intent` records which regions clients write to; `marks` shows these records to the channels.
//! - Control plane: [`methods`].
//!
//! `docs/raid.md` says who owns what, what fails, and in which order superblocks are written.
#![forbid(unsafe_code)]

pub mod array;
mod arrays;
mod assemble;
mod bases;
mod copy;
mod grow;
mod intent;
mod lane;
mod marks;
mod member;
mod members;
pub mod methods;
mod parity;
mod profile;
mod rebuild;
pub mod redundant;
mod repair;
mod row_io;
mod row_log;
mod row_plan;
mod rows;
mod scrub;
mod shared;
mod start;
pub mod striped;
mod strips;
mod superblock;
#[cfg(test)]
mod tests;

use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::{App, Stopping};

plugin! {
    name: "raid",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: [
        "bdev_raid_create", "bdev_raid_delete", "bdev_raid_get_bdevs", "bdev_raid_add_base_bdev",
        "bdev_raid_remove_base_bdev", "bdev_raid_grow_base_bdev", "bdev_raid_set_options", "bdev_raid_start_scrub", "bdev_raid_stop_scrub",
    ],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

fn start(app: &App) -> Result<()> {
    bdev::on_examine(app, assemble::examine);
    bdev::on_save_config(app, arrays::save);
    methods::register(app)
}

fn stop(app: &App, stopping: Stopping) {
    arrays::close_all(app, stopping);
}
