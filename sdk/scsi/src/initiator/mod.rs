//! The initiator's side: I/O of a bdev as SCSI commands, what their ends mean, and the questions that tell what a unit is. A
//! transport carries the commands.

mod command;
mod probe;

pub use command::{Direction, Verdict, command, judge, unmap_list};
pub use probe::{Answer, Unit, probe};
