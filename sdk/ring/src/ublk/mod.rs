//! Userspace block devices: the kernel's driver `ublk_drv` passes the requests of `/dev/ublkbN` to this process.
//!
//! ```text
//! Control ── ADD, SET_PARAMS ─▶ /dev/ublkcN ── Device ── Queue::open, fetch ─▶ Control ── START ─▶ /dev/ublkbN
//!
//! kernel ── request ─▶ Queue::next_request ─▶ owner ─▶ Queue::complete ── flush ─▶ kernel
//! ```
//!
//! Each tag of a queue has one buffer. While the kernel has the tag, the queue has the buffer, and the kernel may write the data of a
//! write request into it. With a request, the owner gets the buffer. Completing the request returns the buffer to the queue, and the
//! kernel reads the data of a read request from it.
//!
//! Needs Linux 6.5. The kernel's documentation is `Documentation/block/ublk.rst`.

mod abi;
mod control;
mod descriptors;
mod queue;

pub use abi::{Attributes, Descriptor, DeviceInfo, Kind, Params, State, feature};
pub use control::{Control, Device};
pub use queue::{KernelBuffer, Queue, Request};

/// Most entries of a queue that [`Queue::open`] accepts.
pub const DEPTH_MAX: u16 = 1024;
