//! NVMe structures. Converts between bytes and values; does no I/O.
//!
//! This crate covers what a host and a controller exchange over any transport: commands ([`command`]), completions ([`completion`],
//! [`status`]), the Fabrics commands and properties ([`fabrics`], [`property`]), and the data of Identify ([`identify`]), Get Log
//! Page ([`log`]) and the features ([`feature`]). Read [`command::Command`] first: all other modules build on it.
//!
//! Sources: NVM Express Base Specification 2.0, NVM Command Set Specification 1.0, Zoned Namespace Command Set Specification 1.1
//! ([`zns`]), NVMe over Fabrics 1.1 (its text is part of Base 2.0). Field names are those of the specifications. All numbers on the wire are little-endian.
//!
//! No bytes from outside cause a panic: fixed-size structures accept any content, and structures of variable length are bounded.

#![forbid(unsafe_code)]

mod layout;

pub mod admin;
pub mod command;
pub mod completion;
pub mod event;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod nqn;
pub mod nvm;
pub mod opcode;
pub mod property;
pub mod reservation;
pub mod sgl;
pub mod status;
pub mod text;
pub mod zns;

pub use command::Command;
pub use completion::Completion;
pub use status::Status;

/// "All namespaces", where a command allows it.
pub const NSID_ALL: u32 = 0xffff_ffff;
