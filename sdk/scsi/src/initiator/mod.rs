//! The initiator's side: turns I/O of a bdev into SCSI commands, turns their results into results of the I/O, and reads the properties
//! of a unit. A transport carries the commands.

mod command;
mod probe;

pub use command::{Direction, Verdict, command, judge, unmap_list};
pub use probe::{Answer, Unit, probe};
