//! The bdev bus.
//!
//! The way of an I/O, one file per stage:
//!
//! ```text
//! client ─ submit ─┬──────────────────────────────────┬─ dispatch ─ module ─┬─ complete ─▶ client
//!             ▲    └ parts (split, bounce, emulate) ──┘                     │
//!             └─────────────── pass (a filter, to its base) ◀───────────────┘
//! ```
//!
//! and the life of a bdev: `device` (registration, names, limits, removal), `desc` (open, claims,
//! events), `channel` (one thread's state of one bdev), `local` (a thread's channels and their
//! handles), `reset`, `quiesce`, `examine`, `stats`. See `docs/data-path.md`.
#![expect(unsafe_code, reason = "requests and channels are shared with plugins by raw pointers")]

pub mod channel;
mod complete;
pub mod desc;
pub mod device;
mod dispatch;
pub mod examine;
mod io;
pub mod local;
mod parts;
mod pass;
pub mod quiesce;
mod reserve;
mod reset;
pub mod stats;
mod submit;
mod waiters;

pub(crate) use channel::Channel;
pub use desc::{Claim, Desc};
pub use device::{Bdev, Geometry, all, by_id, find};
pub(crate) use io::Io;
pub(crate) use local::Local;
pub(crate) use pass::{complete_from, derive, pass};
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
