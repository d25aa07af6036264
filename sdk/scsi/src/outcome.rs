//! The outcome of a command.

use drivebay_sdk::Status as IoStatus;
use drivebay_sdk::bdev::IoResult;
use drivebay_sdk::errno;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::status::Status;

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// Encoded sense data; empty if there is none.
    pub sense: Vec<u8>,
    /// Data for the initiator of a command that moves no blocks, cut to the allocation length.
    pub data: Vec<u8>,
}

impl Outcome {
    /// GOOD.
    #[must_use]
    pub const fn good() -> Self {
        Self { status: Status::Good, sense: Vec::new(), data: Vec::new() }
    }

    /// GOOD, with data cut to the allocation length.
    pub(crate) fn data(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self { data, ..Self::good() }
    }

    /// A status without sense data.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self { status, sense: Vec::new(), data: Vec::new() }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub fn check(sense: &Sense, descriptor: bool) -> Self {
        let sense = sense.encode(descriptor);
        Self { status: Status::CheckCondition, sense, data: Vec::new() }
    }
}

/// The sense data for the result of an I/O; `None` if it succeeded.
pub(crate) fn sense_of(result: IoResult, is_read: bool) -> Option<Sense> {
    let sense = match result.status {
        status if status.is_success() => return None,
        IoStatus::MISCOMPARE => Sense::new(Key::Miscompare, asc::MISCOMPARE_DURING_VERIFY)
            .with_information(result.offset().unwrap_or(0)),
        IoStatus::MEDIA if is_read => Sense::new(Key::MediumError, asc::UNRECOVERED_READ_ERROR),
        IoStatus::MEDIA => Sense::new(Key::MediumError, asc::WRITE_ERROR),
        IoStatus::ABORTED => Sense::new(Key::AbortedCommand, asc::NONE),
        status if status == IoStatus::errno(errno::ENOSPC) => {
            Sense::new(Key::DataProtect, asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
        }
        status if status == IoStatus::errno(errno::EROFS) => {
            Sense::new(Key::DataProtect, asc::WRITE_PROTECTED)
        }
        status if status == IoStatus::errno(errno::ENODEV) => {
            Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED)
        }
        IoStatus::NOT_SUPPORTED => Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE),
        _ if is_read => Sense::new(Key::MediumError, asc::UNRECOVERED_READ_ERROR),
        _ => Sense::new(Key::MediumError, asc::WRITE_ERROR),
    };
    Some(sense)
}
