//! The initiator's side: turns I/O of a bdev into SCSI commands, turns their results into results of the I/O, and reads the properties
//! of a unit. A transport carries the commands.

mod command;
mod probe;

pub use command::{Transfer, Verdict, command, failed, judge, may_be_another_unit, unmap_list};
pub use probe::{Answer, Unit, probe};
