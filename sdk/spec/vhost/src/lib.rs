//! The messages between a vhost-user back end and its front end (a VMM), and the structures of virtio block and SCSI devices
//! and their drivers.
//!
//! Converts between bytes and values; does no I/O. Sources: the vhost-user protocol of QEMU 10
//! (`docs/interop/vhost-user.rst`) and Virtual I/O Device 1.3, "virtio".
//!
//! ```text
//! 12 bytes ─▶ Header::parse ─▶ payload of the announced length ─▶ Request::parse ─▶ one typed request
//! ```

pub mod blk;
mod bytes;
pub mod front;
pub mod inflight;
pub mod message;
pub mod ring;
pub mod scsi;

pub use message::{Header, MessageError, Request};
