//! The environment: memory that devices can reach, PCI devices, buffer pools, core masks, the runtime folder.

pub mod buf;
pub mod cpuset;
pub mod memory;
pub mod numa;
pub mod pci;
pub mod region;
pub mod runtime;
pub(crate) mod shared_copy;
mod sigbus;
pub mod sockets;

pub use cpuset::CpuSet;
pub use memory::Overcommit;
