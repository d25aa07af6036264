//! An I/O of the bus as a SCSI command, and how it ended.

use drivebay_sdk::prelude::*;
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::unmap::{self, Descriptor};

use crate::session::{Done, Payload, Transfer};

/// Maximum number of retries of a command that ends with a unit attention, BUSY or an abort.
const RETRIES_MAX: u32 = 300;
/// How many times a command may exceed its time limit before its I/O fails.
const OVERDUE_MAX: u32 = 2;
/// How many sessions may end during a command before its I/O fails. The command itself may be the cause.
const LOSSES_MAX: u32 = 16;
/// Errno value with which Linux reports a reservation conflict.
const EBADE: i32 = 52;

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
    /// The parameter list of an UNMAP.
    list: Vec<u8>,
}

impl Request {
    pub(crate) fn new(io: BdevIo) -> Self {
        Self { io, sent_ns: 0, retries: 0, overdue: 0, losses: 0, list: Vec::new() }
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

    /// Returns the command and its transfer; `None` for an operation that the bdev does not offer.
    pub(crate) fn command(&mut self, block_size: u32) -> Option<([u8; CDB_LEN], Transfer)> {
        let len = |range: Range| u32::try_from(range.nblocks.checked_mul(block_size.into())?).ok();
        Some(match self.io.op() {
            Op::Read(range) => (transfer(0x88, range)?, Transfer::In(len(range)?)),
            // The bus turns a write through the cache into a write and a flush.
            Op::Write(range) => (transfer(0x8a, range)?, Transfer::Out(len(range)?)),
            Op::Flush => (cdb(&[0x35]), Transfer::None),
            Op::Unmap(range) => {
                let blocks = u32::try_from(range.nblocks).ok()?;
                self.list = unmap::encode(&[Descriptor { lba: range.lba, blocks }]);
                let len = u16::try_from(self.list.len()).ok()?;
                let [high, low] = len.to_be_bytes();
                (cdb(&[0x42, 0, 0, 0, 0, 0, 0, high, low]), Transfer::Out(len.into()))
            }
            _ => return None,
        })
    }
}

fn cdb(bytes: &[u8]) -> [u8; CDB_LEN] {
    let mut whole = [0; CDB_LEN];
    whole.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    whole
}

/// READ (16) or WRITE (16).
fn transfer(opcode: u8, range: Range) -> Option<[u8; CDB_LEN]> {
    let blocks = u32::try_from(range.nblocks).ok()?;
    let (lba, blocks) = (range.lba.to_be_bytes(), blocks.to_be_bytes());
    Some(cdb(&[[opcode, 0].as_slice(), &lba, &blocks].concat()))
}

impl Payload for Request {
    fn take_data(&mut self, offset: u32, bytes: &[u8]) {
        self.io.buffers().fill_at(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
    }

    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(0);
        if self.list.is_empty() {
            self.io.buffers().look_at(at, len, &mut |bytes| out.extend(bytes));
        } else {
            let rest = self.list.get(at..).unwrap_or_default();
            out.extend(rest.get(..len).unwrap_or(rest));
        }
    }
}

/// What the channel does with an I/O after its command.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Completes it.
    End(IoResult),
    /// Sends it again at once, because the unit reported an event instead. `is_resized`: the size of the unit has changed.
    Again { is_resized: bool },
    /// Sends it again after a while, because the unit is busy or aborted the command.
    Later,
}

/// Whether another unit may have this LUN now, so that the session must not be used any more. The next login checks the unit.
pub(crate) fn is_doubtful(sense: Option<&Sense>) -> bool {
    match sense {
        Some(Sense { key: Key::UnitAttention, asc: code, .. }) => matches!(
            *code,
            INQUIRY_DATA_HAS_CHANGED
                | DEVICE_IDENTIFIER_CHANGED
                | asc::REPORTED_LUNS_DATA_HAS_CHANGED
        ),
        Some(sense) => sense.asc == asc::LOGICAL_UNIT_NOT_SUPPORTED,
        None => false,
    }
}

/// Additional sense codes of unit attentions. SPC-4, annex E.2.
const INQUIRY_DATA_HAS_CHANGED: u16 = 0x3f03;
const DEVICE_IDENTIFIER_CHANGED: u16 = 0x3f05;

/// Decides what happens to an I/O whose command has ended.
pub(crate) fn judge(done: &mut Done<Request>) -> Verdict {
    let Done { request, status, sense, is_whole } = done;
    let is_last_try = request.retries >= RETRIES_MAX;
    request.retries += 1;
    match (*status, *sense) {
        (0, _) if *is_whole => Verdict::End(IoResult::new(Status::SUCCESS)),
        (0, _) => Verdict::End(IoResult::new(Status::IO_ERROR)),
        (0x02, Some(Sense { key: Key::UnitAttention, asc: code, .. })) if !is_last_try => {
            let is_resized = code == asc::CAPACITY_DATA_HAS_CHANGED;
            Verdict::Again { is_resized }
        }
        // BUSY, TASK SET FULL and TASK ABORTED.
        (0x02, Some(Sense { key: Key::NotReady | Key::AbortedCommand, .. }))
        | (0x08 | 0x28 | 0x40, _)
            if !is_last_try =>
        {
            Verdict::Later
        }
        (status, sense) => Verdict::End(failed(status, sense)),
    }
}

fn failed(status: u8, sense: Option<Sense>) -> IoResult {
    let (key, code) = sense.map_or((0, 0), |sense| (sense.key as u8, sense.asc));
    let [high, low] = code.to_be_bytes();
    let detail = u64::from(u32::from_le_bytes([status, key, high, low]));
    let what = match sense {
        _ if status == 0x18 => Status::errno(EBADE),
        Some(Sense { key: Key::MediumError, .. }) => Status::MEDIA,
        Some(Sense { asc: asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT, .. }) => {
            Status::errno(errno::ENOSPC)
        }
        Some(Sense { asc: asc::WRITE_PROTECTED, .. }) => Status::errno(errno::EROFS),
        Some(Sense { asc: asc::LOGICAL_UNIT_NOT_SUPPORTED, .. }) => Status::errno(errno::ENODEV),
        _ => Status::IO_ERROR,
    };
    IoResult::with_scsi(what, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_given_up_when_another_unit_may_have_the_lun() {
        for sense in [
            Sense::attention(asc::REPORTED_LUNS_DATA_HAS_CHANGED),
            Sense::attention(INQUIRY_DATA_HAS_CHANGED),
            Sense::attention(DEVICE_IDENTIFIER_CHANGED),
            Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED),
        ] {
            assert!(is_doubtful(Some(&sense)), "{sense:?}");
        }
        for sense in [
            Sense::attention(asc::CAPACITY_DATA_HAS_CHANGED),
            Sense::attention(asc::POWER_ON_OCCURRED),
            Sense::illegal(asc::LBA_OUT_OF_RANGE),
        ] {
            assert!(!is_doubtful(Some(&sense)), "{sense:?}");
        }
        assert!(!is_doubtful(None));
    }
}
