//! The NVMe host driver library (initiator).
//!
//! It has three parts:
//!
//! - [`pcie`] is NVMe over PCIe without a device: registers and memory are traits. The plugin `nvme` implements the traits for real
//!   controllers.
//! - [`handshake`] and [`qpair`] are NVMe/TCP without I/O: bytes in, bytes out. The plugin `nvme` connects them to the sockets of its
//!   threads.
//! - Tests and tools use a client on the caller's thread, without a runtime: [`Controller::connect`] makes an admin queue and
//!   enables a controller, [`Controller::io_queue`] adds I/O queues. A [`Queue`] takes [`Request`]s up to its depth and returns each
//!   as [`Completed`] when it is done:
//!
//! ```no_run
//! use drivebay_nvme_driver::{Controller, Options};
//!
//! # fn main() -> Result<(), drivebay_nvme_driver::Error> {
//! let address = ([127, 0, 0, 1], 4420).into();
//! let mut controller = Controller::connect(Options::new(address, "nqn.2016-06.io.spdk:cnode1"))?;
//! let namespace = controller.namespace(1)?;
//! let mut queue = controller.io_queue(1, 128)?;
//! for slba in 0..64 {
//!     queue.submit(namespace.read(slba, 1)?)?;
//! }
//! while queue.outstanding() > 0 {
//!     let block = queue.reap()?.ok()?;
//!     assert_eq!(block.len(), namespace.block_size as usize);
//! }
//! controller.shutdown()
//! # }
//! ```
//!
//! [`RawConnection`] sends any bytes, for tests of how a target handles invalid ones.

#![forbid(unsafe_code)]

mod controller;
mod error;
pub mod handshake;
mod namespace;
pub mod pcie;
#[cfg(test)]
mod peer;
pub mod qpair;
mod queue;
mod raw;
#[cfg(test)]
mod tests;
mod wire;

pub use controller::{Controller, Host, Options};
pub use drivebay_spec_nvme as spec;
pub use drivebay_spec_nvme_tcp as tcp;
pub use error::Error;
pub use namespace::Namespace;
pub use queue::{Completed, Data, Queue, Request, Token};
pub use raw::{RawConnection, RawPdu};
