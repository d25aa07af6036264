//! The bdev bus.
//!
//! The path of an I/O, one file for each stage:
//!
//! ```text
//! client ─ submit ─┬──────────────────────────────────┬─ dispatch ─ module ─┬─ complete ─▶ client
//!             ▲    └ parts (split, bounce, emulate) ──┘                     │
//!             └─────────────── pass (a filter, to its base) ◀───────────────┘
//! ```
//!
//! The life of a bdev: `device` (registration, names, limits, removal), `desc` (open descriptors
//! and events), `claim` (who may write), `channel` (one thread's state of one bdev), `local` (a
//! thread's channels and their handles), `reset`, `quiesce`, `examine`, `stats`, `failed`. See
//! `docs/data-path.md`.
#![expect(unsafe_code, reason = "requests and channels are shared with plugins by raw pointers")]

pub mod channel;
mod claim;
mod complete;
pub mod desc;
pub mod device;
mod dispatch;
pub mod examine;
pub mod failed;
mod io;
pub mod local;
mod parts;
mod pass;
pub mod quiesce;
mod refused;
mod reserve;
mod reset;
pub mod stats;
mod submit;
mod waiters;

pub(crate) use channel::Channel;
pub use claim::{Claim, claim, unclaim};
pub use desc::Desc;
pub use device::{Bdev, Geometry, all, by_id, find};
pub(crate) use io::Io;
pub(crate) use local::Local;
pub(crate) use pass::{complete_from, derive, derive_part, pass};
pub(crate) use submit::submit;
