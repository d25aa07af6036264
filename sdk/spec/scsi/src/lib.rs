//! SCSI structures: bytes to values and back, no I/O.
//!
//! The messages between an initiator and a logical unit, for any transport: commands ([`command`]), the status and sense data that end
//! them ([`status`], [`sense`]), and their data: INQUIRY and its pages ([`inquiry`]), capacity and provisioning ([`capacity`],
//! [`unmap`]), mode pages ([`mode`]), log pages ([`log`]), persistent reservations ([`reservation`]), copies between units ([`copy`]),
//! LUNs ([`lun`]) and the lists of supported commands ([`opcode`]). Read [`command::Command`] first: everything else depends on it.
//!
//! Sources: SAM-5, SPC-4, SBC-3. Fields have the names of these standards. All numbers on the wire are big-endian.
//!
//! Nothing here panics on bytes from outside, and nothing allocates more than its caller allows.

#![forbid(unsafe_code)]

mod bytes;

pub mod capacity;
pub mod command;
pub mod copy;
pub mod inquiry;
pub mod log;
pub mod lun;
pub mod mode;
pub mod opcode;
pub mod reservation;
pub mod sense;
pub mod status;
pub mod unmap;

pub use command::Command;
pub use sense::Sense;
pub use status::Status;

/// Length of a CDB as transports carry it, in bytes. Shorter CDBs have zeros behind them.
pub const CDB_LEN: usize = 16;
