//! I/O commands: turns them into bdev operations, and the results of the bdev into NVMe statuses.
//!
//! Only decisions; [`crate::group`] executes them on the thread of the queue.

mod copy;
mod plan;
mod status;

pub use copy::{COPY_RANGE_BYTES, COPY_RANGES_MAX, CopyPlan, copy, copy_blocks, copy_range_blocks};
pub use plan::{Plan, deallocate, plan};
pub use status::nvme_status;
