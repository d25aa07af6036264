//! The environment: memory that devices can reach, buffer pools, core masks, the runtime folder.

pub mod buf;
pub mod cpuset;
pub mod memory;
pub mod runtime;

pub use cpuset::CpuSet;
