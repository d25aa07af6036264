//! The guard between plugin and host: the host's tables for a plugin that is being checked. It
//! checks all calls that go through, and records broken rules in [`breach`](crate::breach).
//!
//! ```text
//! bus ── bdev, request ──▶ module        module ── client ──▶ bus
//! reactor ── poller, message ──▶ plugin  plugin ── memory ──▶ host
//! ```
#![expect(unsafe_code, reason = "forwards calls of a C ABI")]

pub(crate) mod bdev;
mod client;
mod memory;
mod poller;
pub(crate) mod request;
mod thread;

pub use bdev::{Guarded, bdevs};
pub use memory::{Held, held};
pub use poller::only_polled;
pub use request::{at_module, check_retired, op_name};

use drivebay_core::services;
use drivebay_plugin_api::id;
use std::ffi::c_void;

/// The table of an interface for a guarded plugin; `None` when the core has no such interface.
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

/// The core's own tables, to which the guard forwards.
pub(crate) mod core {
    use drivebay_core::services;
    use drivebay_plugin_api::*;

    macro_rules! tables {
        ($($name:ident: $id:ident, $table:ty;)*) => { $(
            pub(crate) fn $name() -> &'static $table {
                let table = services::table(id::$id).unwrap_or(std::ptr::null());
                assert!(!table.is_null(), "the core has a table for each of these ids");
                // SAFETY: it is the core's table with this id, a static of this type.
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
