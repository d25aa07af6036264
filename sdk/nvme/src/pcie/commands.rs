//! The admin commands that create and delete I/O queues. NVMe Base 2.0, sections 5.4 to 5.7.

use drivebay_spec_nvme::Command;
use drivebay_spec_nvme::opcode::admin;

/// The queue is contiguous in memory.
const CONTIGUOUS: u32 = 1;
/// The completion queue interrupts.
const INTERRUPTS: u32 = 1 << 1;

/// Creates a completion queue. The data pointer of the command is the queue's memory. `vector`: the interrupt vector that the queue
/// raises.
#[must_use]
pub fn create_completion_queue(qid: u16, entries: u16, vector: u16) -> Command {
    let mut command = Command::new(admin::CREATE_IO_CQ);
    command.dw[10] = size_and_name(qid, entries);
    command.dw[11] = u32::from(vector) << 16 | INTERRUPTS | CONTIGUOUS;
    command
}

/// Creates a submission queue for the completion queue with the same identifier. The data pointer of the command is the queue's memory.
#[must_use]
pub fn create_submission_queue(qid: u16, entries: u16) -> Command {
    let mut command = Command::new(admin::CREATE_IO_SQ);
    command.dw[10] = size_and_name(qid, entries);
    command.dw[11] = u32::from(qid) << 16 | CONTIGUOUS;
    command
}

/// Deletes a submission queue. When this command completes, all commands of the queue have ended.
#[must_use]
pub fn delete_submission_queue(qid: u16) -> Command {
    let mut command = Command::new(admin::DELETE_IO_SQ);
    command.dw[10] = qid.into();
    command
}

/// Deletes a completion queue. Its submission queue must be deleted first.
#[must_use]
pub fn delete_completion_queue(qid: u16) -> Command {
    let mut command = Command::new(admin::DELETE_IO_CQ);
    command.dw[10] = qid.into();
    command
}

fn size_and_name(qid: u16, entries: u16) -> u32 {
    u32::from(entries.saturating_sub(1)) << 16 | u32::from(qid)
}
