//! NVMe over PCIe without a device: registers and memory are traits, so the same code runs on a real controller and on a model.
//!
//! - [`Registers`] are a controller's registers. [`Memory`] is memory that the driver and the controller share.
//! - [`Controller`] enables, disables and shuts down a controller. Its owner polls a [`Wait`], which has a deadline, between the steps.
//! - [`commands`] create and delete I/O queues.
//! - [`Ring`] is a queue pair. Its owner submits commands, polls it for completions, and rings the doorbells once a round. It uses [`Sgl`]s
//!   and [`Shadow`] doorbells where the controller has them.
//!
//! Whatever a controller does, a ring returns each request once, touches only its own memory, and never has more requests than its depth.
//! The first [`Fault`] ends the ring. The owner then stops the controller. Only after that it takes the outstanding requests back, because
//! the controller may access their memory until it is stopped.
//!
//! ```
//! use drivebay_nvme_driver::pcie::{Controller, Fault, Registers, Wait};
//!
//! # fn disable(registers: impl Registers, mut now_ns: impl FnMut() -> u64) -> Result<(), Fault> {
//! let controller = Controller::new(registers)?;
//! controller.disable();
//! let wait = Wait::for_ready(&controller, false, now_ns());
//! while !wait.is_over(&controller, now_ns())? {
//!     std::thread::yield_now();
//! }
//! # Ok(())
//! # }
//! ```

pub mod commands;
mod controller;
mod doorbells;
#[cfg(any(test, feature = "testing"))]
pub mod model;
mod prp;
mod ring;
mod sgl;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use controller::{AdminQueue, Controller, Wait};
pub use doorbells::Shadow;
pub use ring::{Payload, Queue, Refused, Ring};
pub use sgl::Sgl;

/// Length of a memory page, in bytes. Every controller that runs on this kind of machine supports it.
pub const PAGE: u32 = 4096;

/// A controller's registers: the memory of BAR 0. They read as all ones when the controller is gone.
pub trait Registers {
    /// Length, in bytes.
    fn len_bytes(&self) -> usize;

    /// Reads 4 bytes at an offset that is a multiple of 4.
    fn read32(&self, at: usize) -> u32;

    /// Writes 4 bytes at an offset that is a multiple of 4. The controller sees all earlier stores to memory before it sees this write.
    fn write32(&self, at: usize, value: u32);
}

/// Memory that the driver and a controller share, in words of 8 bytes, aligned to a page. It is zero at first.
pub trait Memory {
    /// Address of the memory, for the controller.
    fn iova(&self) -> u64;

    /// Length in words of 8 bytes.
    fn words(&self) -> usize;

    /// Loads a word. The caller then also sees everything that the controller wrote before this word.
    fn load(&self, index: usize) -> u64;

    /// Stores a word.
    fn store(&self, index: usize, value: u64);
}

impl<T: Registers> Registers for Arc<T> {
    fn len_bytes(&self) -> usize {
        T::len_bytes(self)
    }

    fn read32(&self, at: usize) -> u32 {
        T::read32(self, at)
    }

    fn write32(&self, at: usize, value: u32) {
        T::write32(self, at, value);
    }
}

/// Why a controller or a queue can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The controller is gone: its registers read as all ones.
    Gone,
    /// The controller has a fatal error (CSTS.CFS).
    Fatal,
    /// This field of the controller's status did not change before the deadline.
    Late(&'static str),
    /// This driver does not support the controller, for this reason.
    Unsupported(&'static str),
    /// The controller completed a command that is not outstanding, or whose doorbell the driver has not rung yet.
    UnknownCommand(u16),
    /// A completion names another submission queue.
    WrongQueue(u16),
    /// A completion names an entry that the submission queue does not have.
    WrongHead(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the controller is gone: its registers read as all ones"),
            Self::Fatal => f.write_str("the controller has a fatal error (CSTS.CFS)"),
            Self::Late(field) => write!(f, "the controller did not change {field} in time"),
            Self::Unsupported(what) => write!(f, "the controller is not supported: {what}"),
            Self::UnknownCommand(cid) => {
                write!(f, "the controller completed command {cid}, which is not outstanding")
            }
            Self::WrongQueue(qid) => {
                write!(f, "the controller sent a completion of queue {qid} to another queue")
            }
            Self::WrongHead(head) => {
                write!(
                    f,
                    "a completion names submission queue entry {head}, which the queue does not have"
                )
            }
        }
    }
}

impl std::error::Error for Fault {}
