//! NVMe/TCP PDUs. Converts between bytes and values; does no I/O.
//!
//! A receiver reads the first [`CommonHeader::LEN`] bytes and passes them to [`Frame::parse`]. The result has the type of the PDU
//! and the positions of its header digest, padding, data and data digest. The receiver then reads the header, checks the digest
//! ([`digest`]) and passes the header to the `parse` of its type. A sender calls `encode` of a type. It fills a fixed-size header
//! and returns the [`Placement`] of the parts that follow. No function allocates memory, and no bytes from outside cause a panic.
//!
//! Errors in a PDU are [`ProtocolError`]s. They have exactly the information of a terminate connection request.
//!
//! Source: NVMe/TCP Transport Specification 1.0. All numbers on the wire are little-endian.

#![forbid(unsafe_code)]

mod capsule;
mod data;
pub mod digest;
mod error;
mod frame;
mod header;
mod init;
mod term;

pub use capsule::{CapsuleCmd, CapsuleResp};
pub use data::{C2hData, H2cData, R2t};
pub use error::{Fes, ProtocolError};
pub use frame::{Alignment, Digests, Frame, Placement, Receiver, Role};
pub use header::{CommonHeader, PduType, flags};
pub use init::{IcReq, IcResp};
pub use term::TermReq;

/// Length of a header or data digest, in bytes.
pub const DIGEST_LEN: usize = 4;
