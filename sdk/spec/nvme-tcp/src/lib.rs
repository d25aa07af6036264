//! NVMe/TCP PDUs: bytes to values and back, no I/O.
//!
//! A receiver reads the first [`CommonHeader::LEN`] bytes and gives them to [`Frame::parse`], which says what the PDU is and where
//! its header digest, padding, data and data digest are. It then reads the header, checks the digest ([`digest`]) and gives the
//! header to the `parse` of its type. A sender calls `encode` of a type, which fills a fixed-size header and returns the
//! [`Placement`] of what must follow. Nothing allocates, nothing panics on bytes from outside.
//!
//! What is wrong with a PDU is a [`ProtocolError`]: exactly what a terminate connection request reports.
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
