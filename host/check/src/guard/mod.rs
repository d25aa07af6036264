//! Between plugin and host: the host's tables, as a plugin that is checked sees them. What goes
//! through is looked at; a rule that is broken is noted in [`breach`](crate::breach).
//!
//! ```text
//! bus ── bdev, request ──▶ module        module ── client ──▶ bus
//! reactor ── poller, message ──▶ plugin  plugin ── memory ──▶ host
//! ```
#![expect(unsafe_code, reason = "stands between two sides of a C ABI")]

pub(crate) mod bdev;
mod client;
mod memory;
mod poller;
pub(crate) mod request;
mod thread;

pub use bdev::{Guarded, bdevs};
pub use memory::{Held, held};
pub use poller::only_polled;
pub use request::{at_module, look_at_ended, op_name};

use drivebay_core::services;
use drivebay_plugin_api::id;
use std::ffi::c_void;

/// The table of an interface for a guarded plugin, or `None` when it is not the core's.
#[must_use]
pub fn table(interface: &str) -> Option<*const c_void> {
    match interface {
        id::BDEV => Some((&raw const *bdev::TABLE).cast()),
        id::BDEV_CLIENT => Some((&raw const *client::TABLE).cast()),
        id::POLLER => Some((&raw const *poller::TABLE).cast()),
        id::THREAD => Some((&raw const *thread::TABLE).cast()),
        id::MEM => Some((&raw const *memory::MEM).cast()),
        id::BUF => Some((&raw const *memory::BUF).cast()),
        other => services::table(other),
    }
}

/// The core's own tables, which the guard's stand before.
pub(crate) mod core {
    use drivebay_core::services;
    use drivebay_plugin_api::*;

    macro_rules! tables {
        ($($name:ident: $id:ident, $table:ty;)*) => { $(
            pub(crate) fn $name() -> &'static $table {
                let table = services::table(id::$id).unwrap_or(std::ptr::null());
                assert!(!table.is_null(), "the core has every table that it names");
                // SAFETY: the core's table of that id: a static of that type.
                unsafe { &*table.cast::<$table>() }
            }
        )* };
    }

    tables! {
        bdev: BDEV, bay_bdev_api;
        client: BDEV_CLIENT, bay_bdev_client_api;
        poller: POLLER, bay_poller_api;
        thread: THREAD, bay_thread_api;
        mem: MEM, bay_mem_api;
        buf: BUF, bay_buf_api;
    }
}
