//! I/O commands: what they ask of a bdev, and how its answers are told to the host.
//!
//! Decisions only; [`crate::group`] carries them out on the thread of the queue.

mod copy;
mod plan;
mod status;

pub use copy::{COPY_RANGE_BYTES, COPY_RANGES_MAX, CopyPlan, copy, copy_blocks, copy_range_blocks};
pub use plan::{Plan, deallocate, plan};
pub use status::nvme_status;
