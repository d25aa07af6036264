//! What a vhost-user back end and its front end (a VMM) say to each other, and what virtio block and SCSI devices and
//! their drivers do.
//!
//! Pure values, no I/O. Sources: the vhost-user protocol of QEMU 10 (`docs/interop/vhost-user.rst`) and Virtual
//! I/O Device 1.3, "virtio".
//!
//! ```text
//! 12 bytes ─▶ Header::parse ─▶ as many bytes as it says ─▶ Request::parse ─▶ one typed request
//! ```

pub mod blk;
mod bytes;
pub mod inflight;
pub mod message;
pub mod ring;
pub mod scsi;

pub use message::{Header, MessageError, Request};
