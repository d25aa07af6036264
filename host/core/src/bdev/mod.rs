//! The bdev bus.
//!
//! The way of an I/O, one file per stage:
//!
//! ```text
//! client ─ submit ─┬─────────────────────────────┬─ dispatch ─ module
//!                  └ parts (split, bounce, emulate) ┘               │
//! client ─ complete ◀──────────────────────────────────────────────┘
//! ```
//!
//! and the life of a bdev: `device` (registration, names), `desc` (open, claims, events), `channel`
//! (one thread's state), `reset`, `quiesce`, `examine`, `stats`.
#![expect(unsafe_code, reason = "requests and channels are shared with plugins by raw pointers")]

pub mod channel;
mod complete;
pub mod desc;
pub mod device;
mod dispatch;
pub mod examine;
mod io;
pub mod load;
mod parts;
pub mod quiesce;
mod reset;
pub mod stats;
mod submit;

pub(crate) use channel::Local;
pub use desc::{Claim, Desc};
pub use device::{Bdev, Geometry, all, by_id, find};
pub(crate) use io::Io;
pub(crate) use submit::submit;

use drivebay_plugin_api as api;

/// Ops of an [`api::bay_io`] as they appear in `supported_io_types`, with their number.
pub const OPS: [(u16, &str); 9] = [
    (api::BAY_OP_READ, "read"),
    (api::BAY_OP_WRITE, "write"),
    (api::BAY_OP_UNMAP, "unmap"),
    (api::BAY_OP_FLUSH, "flush"),
    (api::BAY_OP_RESET, "reset"),
    (api::BAY_OP_WRITE_ZEROES, "write_zeroes"),
    (api::BAY_OP_COMPARE, "compare"),
    (api::BAY_OP_ABORT, "abort"),
    (api::BAY_OP_COPY, "copy"),
];
