//! What a SCSI target device does with commands, whatever carries them: iSCSI, vhost-scsi.
//!
//! A [`Device`] has [units](unit::Unit) (LUNs over bdevs) and nexuses (who is logged in). A transport asks it to
//! [begin](Device::begin) a command and gets a [`Task`], which it then serves: [`Task::step`] says what to do (receive a parameter
//! list, submit one I/O of a piece of the data, wait, or end), [`Task::ended`] tells how an I/O went. Nothing here touches a
//! socket, a channel or memory of the host, so a device can be driven by a test, a fuzzer or guest memory as well.
//!
//! A device and all that belongs to it lives on one lightweight thread. `docs/scsi.md` has the words, the states and the ways.

mod copy;
mod data;
mod device;
pub mod disk;
mod gate;
mod inquire;
mod modes;
mod opcodes;
mod outcome;
mod parameters;
mod plan;
mod reserve;
mod reserve_out;
mod task;
#[cfg(test)]
mod tests;
pub mod unit;

pub use device::{Device, NexusId, Offered, Port};
pub use disk::Disk;
pub use gate::TaskKey;
pub use outcome::Outcome;
pub use reserve::{Identity, kind_of, type_of};
pub use reserve_out::{Change, Settled};
pub use task::{Data, Io, Next, Task};

/// Most bytes of one piece of a transfer: what a transport has to hold at once for an I/O.
pub const PIECE_LEN: u32 = 128 << 10;
