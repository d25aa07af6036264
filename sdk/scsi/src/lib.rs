//! A SCSI target device, independent of its transport: iSCSI or vhost-scsi.
//!
//! A [`Device`] has [units](unit::Unit) (LUNs over bdevs) and nexuses (initiator ports that are logged in). A transport
//! [begins](Device::begin) a command and gets a [`Task`]. [`Task::step`] says what the transport must do: receive a parameter list,
//! submit one I/O, wait, or end the command. The transport reports the end of an I/O with [`Task::ended`]. Nothing here uses a socket,
//! a channel or memory of the host, so a test or a fuzzer can drive a device just as a transport does.
//!
//! [`initiator`] is the other side. Plugins that use units of other targets need it.
//!
//! A device and everything that belongs to it lives on one lightweight thread. `docs/scsi.md` explains the terms and the states.

mod copy;
mod data;
mod device;
pub mod disk;
mod gate;
pub mod initiator;
mod inquire;
mod modes;
mod opcodes;
mod outcome;
mod parameters;
mod plan;
mod reserve;
mod reserve_out;
mod space;
mod task;
#[cfg(test)]
mod tests;
pub mod unit;

pub use device::{Device, NexusId, Offered, Port};
pub use disk::Disk;
pub use gate::TaskKey;
pub use outcome::Outcome;
pub use reserve::{Identity, kind_of, type_of};
pub use reserve_out::{Change, Preempted, Settled};
pub use task::{Data, Io, Next, Task};

/// Maximum number of bytes of one piece of a transfer: the memory of one I/O.
pub const PIECE_LEN: u32 = 128 << 10;
