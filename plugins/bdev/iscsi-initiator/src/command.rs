//! An I/O of the bus as a SCSI command, and how it ended.

use drivebay_sdk::prelude::*;
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::unmap::{self, Descriptor};

use crate::session::{Done, Payload, Transfer};

/// How many times a command is sent again that ends with a unit attention or BUSY.
const RETRIES_MAX: u32 = 300;
/// How many times a command may take longer than its limit.
const OVERDUE_MAX: u32 = 2;
/// Errno value of Linux: a reservation is in the way, as the kernel says it.
const EBADE: i32 = 52;

/// An I/O, from the bus to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) io: BdevIo,
    /// When it was sent, on the host's clock in nanoseconds.
    pub(crate) sent_ns: u64,
    retries: u32,
    /// How many times it took longer than its limit.
    overdue: u32,
    /// The parameter list of an UNMAP.
    list: Vec<u8>,
}

impl Request {
    pub(crate) fn new(io: BdevIo) -> Self {
        Self { io, sent_ns: 0, retries: 0, overdue: 0, list: Vec::new() }
    }

    /// It took longer than its limit.
    pub(crate) fn is_overdue(&mut self) {
        self.overdue += 1;
    }

    /// Whether it is not sent again: it took longer than its limit each time.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.overdue >= OVERDUE_MAX
    }

    /// The command, and which way its data goes; `None` for an operation that the bdev does not offer.
    pub(crate) fn command(&mut self, block_size: u32) -> Option<([u8; CDB_LEN], Transfer)> {
        let len = |range: Range| u32::try_from(range.nblocks.checked_mul(block_size.into())?).ok();
        Some(match self.io.op() {
            Op::Read(range) => (transfer(0x88, range)?, Transfer::In(len(range)?)),
            // The bus makes a write through a write and a flush.
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

/// What to do after a command.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The I/O has ended.
    End(IoResult),
    /// It is sent again at once: something else was told. `is_resized`: the size of the unit has changed.
    Again { is_resized: bool },
    /// It is sent again after a while: the unit is busy.
    Later,
}

/// What becomes of an I/O whose command has ended.
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
        (0x02, Some(Sense { key: Key::NotReady, .. })) | (0x08 | 0x28, _) if !is_last_try => {
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
