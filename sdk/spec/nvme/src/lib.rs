//! NVMe structures: bytes to values and back, no I/O.
//!
//! What a host and a controller say to each other, whatever carries it: commands ([`command`]), completions ([`completion`], [`status`]),
//! the Fabrics commands and properties ([`fabrics`], [`property`]), and the data of Identify ([`identify`]), Get Log Page
//! ([`log`]) and the features ([`feature`]). Read [`command::Command`] first: everything else hangs on it.
//!
//! Sources: NVM Express Base Specification 2.0, NVM Command Set Specification 1.0, NVMe over Fabrics 1.1 (its text is part of Base
//! 2.0). Names of fields are the specifications' own. All numbers on the wire are little-endian.
//!
//! Nothing here panics on bytes from outside: fixed-size structures accept any content, and what has a variable length is bounded.

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

pub use command::Command;
pub use completion::Completion;
pub use status::Status;

/// "All namespaces", where a command allows it.
pub const NSID_ALL: u32 = 0xffff_ffff;
