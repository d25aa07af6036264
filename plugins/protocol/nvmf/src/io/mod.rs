//! I/O commands: what they ask of a bdev, and how its answers are told to the host.
//!
//! Decisions only; [`crate::group`] carries them out on the thread of the queue.

mod plan;
mod status;

pub use plan::{Plan, deallocate, plan};
pub use status::nvme_status;
