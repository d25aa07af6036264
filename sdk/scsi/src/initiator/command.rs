//! Turns I/O into commands, and the results of commands into results of I/O.

use drivebay_sdk::Status;
use drivebay_sdk::bdev::{IoResult, Op, Range};
use drivebay_sdk::errno;
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::unmap::{self, DESCRIPTOR_LEN, Descriptor, HEADER_LEN};

/// Errno value with which Linux reports a reservation conflict.
const EBADE: i32 = 52;
/// Length of the parameter list of an UNMAP with one range, in bytes.
const UNMAP_LEN: usize = HEADER_LEN + DESCRIPTOR_LEN;

/// The direction of a command's data, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// From the unit.
    In(u32),
    /// To the unit: the buffers of the I/O, or the list of [`unmap_list`].
    Out(u32),
}

/// The command for an op, and its transfer. `None` for an op that has no command here, and for a range that is too long for one command.
#[must_use]
pub fn command(op: Op, block_size: u32) -> Option<([u8; CDB_LEN], Transfer)> {
    let len = |range: Range| u32::try_from(range.nblocks.checked_mul(block_size.into())?).ok();
    Some(match op {
        Op::Read(range) => (transfer(0x88, range)?, Transfer::In(len(range)?)),
        // The bus turns a write through the cache into a write and a flush.
        Op::Write(range) => (transfer(0x8a, range)?, Transfer::Out(len(range)?)),
        Op::Flush => (cdb(&[0x35]), Transfer::None),
        Op::Unmap(range) => {
            let len = u16::try_from(unmap_list(range)?.len()).ok()?;
            let [high, low] = len.to_be_bytes();
            (cdb(&[0x42, 0, 0, 0, 0, 0, 0, high, low]), Transfer::Out(len.into()))
        }
        _ => return None,
    })
}

/// The parameter list of an UNMAP. `None` for a range that is too long for one command.
#[must_use]
pub fn unmap_list(range: Range) -> Option<[u8; UNMAP_LEN]> {
    let blocks = u32::try_from(range.nblocks).ok()?;
    unmap::encode(&[Descriptor { lba: range.lba, blocks }]).try_into().ok()
}

pub(super) fn cdb(bytes: &[u8]) -> [u8; CDB_LEN] {
    let mut whole = [0; CDB_LEN];
    whole.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    whole
}

/// READ (16) or WRITE (16).
fn transfer(opcode: u8, range: Range) -> Option<[u8; CDB_LEN]> {
    let blocks = u32::try_from(range.nblocks).ok()?.to_be_bytes();
    let mut whole = cdb(&[opcode]);
    let lba = range.lba.to_be_bytes();
    whole
        .iter_mut()
        .skip(2)
        .zip(lba.iter().chain(&blocks))
        .for_each(|(place, byte)| *place = *byte);
    Some(whole)
}

/// What to do with an I/O whose command has ended.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Complete it.
    End(IoResult),
    /// Send it again at once, because the unit reported an event instead. `is_resized`: the size of the unit has changed.
    Again {
        /// Whether the unit reported another size.
        is_resized: bool,
    },
    /// Send it again after a while, because the unit is busy or aborted the command.
    Later,
}

/// Decides about an I/O whose command has ended. `is_whole`: all of its data was transferred.
#[must_use]
pub fn judge(status: u8, sense: Option<Sense>, is_whole: bool) -> Verdict {
    match (status, sense) {
        (0, _) if is_whole => Verdict::End(IoResult::new(Status::SUCCESS)),
        (0, _) => Verdict::End(IoResult::new(Status::IO_ERROR)),
        (0x02, Some(Sense { key: Key::UnitAttention, asc: code, .. })) => {
            Verdict::Again { is_resized: code == asc::CAPACITY_DATA_HAS_CHANGED }
        }
        // BUSY, TASK SET FULL and TASK ABORTED.
        (0x02, Some(Sense { key: Key::NotReady | Key::AbortedCommand, .. }))
        | (0x08 | 0x28 | 0x40, _) => Verdict::Later,
        (status, sense) => Verdict::End(failed(status, sense)),
    }
}

/// The result of an I/O whose command failed, with the SCSI status and sense.
#[must_use]
pub fn failed(status: u8, sense: Option<Sense>) -> IoResult {
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

/// Whether the target reports that another unit may have this LUN now.
#[must_use]
pub fn may_be_another_unit(sense: Option<Sense>) -> bool {
    match sense {
        Some(Sense { key: Key::UnitAttention, asc: code, .. }) => matches!(
            code,
            asc::INQUIRY_DATA_HAS_CHANGED
                | asc::DEVICE_IDENTIFIER_CHANGED
                | asc::REPORTED_LUNS_DATA_HAS_CHANGED
        ),
        Some(sense) => sense.asc == asc::LOGICAL_UNIT_NOT_SUPPORTED,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_carry_block_and_length_in_the_standards_places() {
        let (cdb, data) = command(Op::Write(Range::new(0x0102, 3)), 4096).unwrap();
        assert_eq!(cdb, [0x8a, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0]);
        assert_eq!(data, Transfer::Out(3 * 4096));
        let (cdb, data) = command(Op::Unmap(Range::new(1, 2)), 512).unwrap();
        assert_eq!((cdb[0], cdb[8], data), (0x42, 24, Transfer::Out(24)));
        let list = unmap_list(Range::new(1, 2)).unwrap();
        assert_eq!((list[1], list[3], list[15], list[19]), (22, 16, 1, 2));
        let too_long = Range::new(0, 1 << 32);
        assert!(unmap_list(too_long).is_none());
        for op in [Op::Read(too_long), Op::Write(too_long), Op::Unmap(too_long)] {
            assert!(command(op, 512).is_none(), "{op:?}");
        }
    }

    #[test]
    fn an_end_is_a_result_or_a_reason_to_try_again() {
        let ended = |status, sense, is_whole| match judge(status, sense, is_whole) {
            Verdict::End(result) => Some(result.status),
            Verdict::Again { .. } | Verdict::Later => None,
        };
        assert_eq!(ended(0, None, true), Some(Status::SUCCESS));
        assert_eq!(ended(0, None, false), Some(Status::IO_ERROR), "a part of the data is missing");
        assert_eq!(
            ended(2, Some(Sense::illegal(asc::LBA_OUT_OF_RANGE)), true),
            Some(Status::IO_ERROR)
        );
        assert_eq!(ended(8, None, true), None);
        let grown = Sense::attention(asc::CAPACITY_DATA_HAS_CHANGED);
        assert!(matches!(judge(2, Some(grown), false), Verdict::Again { is_resized: true }));
    }

    #[test]
    fn another_unit_may_have_the_lun_after_some_reports_and_not_after_others() {
        for sense in [
            Sense::attention(asc::REPORTED_LUNS_DATA_HAS_CHANGED),
            Sense::attention(asc::INQUIRY_DATA_HAS_CHANGED),
            Sense::attention(asc::DEVICE_IDENTIFIER_CHANGED),
            Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED),
        ] {
            assert!(may_be_another_unit(Some(sense)), "{sense:?}");
        }
        for sense in [
            Sense::attention(asc::CAPACITY_DATA_HAS_CHANGED),
            Sense::attention(asc::POWER_ON_OCCURRED),
            Sense::illegal(asc::LBA_OUT_OF_RANGE),
        ] {
            assert!(!may_be_another_unit(Some(sense)), "{sense:?}");
        }
        assert!(!may_be_another_unit(None));
    }
}
