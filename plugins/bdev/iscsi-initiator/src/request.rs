//! An I/O of the bus, and how often it may be sent again.

use drivebay_scsi::initiator::{self, Verdict, failed, unmap_list};
use drivebay_sdk::prelude::*;

use crate::session::{Done, Payload};

/// Maximum number of retries of a command that ends with a unit attention, BUSY or an abort.
const RETRIES_MAX: u32 = 300;
/// How many times a command may exceed its time limit before its I/O fails.
const OVERDUE_MAX: u32 = 2;
/// How many sessions may end during a command before its I/O fails. The command itself may be the cause.
const LOSSES_MAX: u32 = 16;

/// An I/O, from the bus to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) io: BdevIo,
    /// When its command was last submitted to a session, on the host's clock in nanoseconds.
    pub(crate) sent_ns: u64,
    retries: u32,
    /// How many times its command exceeded the time limit.
    overdue: u32,
    /// How many sessions ended during its command.
    losses: u32,
}

impl Request {
    pub(crate) fn new(io: BdevIo) -> Self {
        Self { io, sent_ns: 0, retries: 0, overdue: 0, losses: 0 }
    }

    /// Records that its command exceeded the time limit.
    pub(crate) fn count_overdue(&mut self) {
        self.overdue += 1;
    }

    /// Records that a session ended during its command.
    pub(crate) fn count_loss(&mut self) {
        self.losses += 1;
    }

    /// Whether the I/O fails instead of being sent again.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.overdue >= OVERDUE_MAX || self.losses >= LOSSES_MAX
    }
}

impl Payload for Request {
    fn take_data(&mut self, offset: u32, bytes: &[u8]) {
        self.io.buffers().fill_at(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
    }

    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(0);
        if let Op::Unmap(range) = self.io.op() {
            let list = unmap_list(range).unwrap_or_default(); // `command` gives no command for a range without a list
            out.extend(list.iter().skip(at).take(len));
        } else {
            self.io.buffers().look_at(at, len, &mut |bytes| out.extend(bytes));
        }
    }
}

/// Decides what happens to an I/O whose command has ended. It fails after [`RETRIES_MAX`] retries.
pub(crate) fn judge(done: &mut Done<Request>) -> Verdict {
    let is_last_try = done.request.retries >= RETRIES_MAX;
    done.request.retries += 1;
    match initiator::judge(done.status, done.sense, done.is_whole) {
        Verdict::Again { .. } | Verdict::Later if is_last_try => {
            Verdict::End(failed(done.status, done.sense))
        }
        verdict => verdict,
    }
}
