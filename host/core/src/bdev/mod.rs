//! The bdev bus, in three rooms. The path and the registry use the state, and the state uses neither of
//! them. The registry uses the path only for a bdev that is removed or whose module has failed.
//!
//! ```text
//! registry/  bdevs, names, claims, descriptors, events, examination, removal
//! path/      what happens to an I/O: submit, parts, dispatch, pass, complete, the end of a round
//! state/     what an I/O, a queue, a channel, a bdev, a descriptor and a counter are
//! ```
//!
//! See `docs/data-path.md`.
#![expect(unsafe_code, reason = "requests and channels are shared with plugins by raw pointers")]

pub(crate) mod path;
mod registry;
pub(crate) mod state;

pub use registry::claim::{claim, unclaim};
pub use registry::names::{all, by_id, find};
pub use registry::{desc, events, examine, failed, names, register, removal, stats};
pub use state::{Bdev, Claim, Desc, Geometry, Space, set_most_io};
