//! Converts the result of a bdev to an NVMe status.

use drivebay_sdk::bdev::IoResult;
use drivebay_sdk::{Status as BdevStatus, errno};
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::opcode::nvm;

/// The status for the result of the bdev, with Do Not Retry if the same command would fail again.
#[inline]
pub fn nvme_status(opcode: u8, result: IoResult) -> Status {
    if result.status.is_success() {
        return Status::SUCCESS;
    }
    match result.nvme() {
        Some(detail) => of_device(detail),
        None => of_bdev(opcode, result.status),
    }
}

/// The device's own status, unchanged.
fn of_device(detail: u64) -> Status {
    let byte = |shift: u32| u8::try_from(detail >> shift & 0xff).unwrap_or(0);
    let status = Status::new(byte(32) & 7, byte(40)).with_crd(byte(50) & 3);
    let status = if detail >> 48 & 1 == 1 { status.with_dnr() } else { status };
    if status.is_success() { Status::INTERNAL_ERROR } else { status }
}

#[cold]
fn of_bdev(opcode: u8, status: BdevStatus) -> Status {
    /// A status of the ABI without a name in the SDK.
    const fn raw(value: i32) -> BdevStatus {
        BdevStatus::from_raw(value)
    }
    const FUSED_FAILED: BdevStatus = raw(-4129);
    const PI_GUARD: BdevStatus = raw(-4144);
    const PI_APP: BdevStatus = raw(-4145);
    const PI_REF: BdevStatus = raw(-4146);
    const RESERVATION: BdevStatus = raw(-4160);
    const NO_SPACE: BdevStatus = BdevStatus::errno(errno::ENOSPC);
    const NO_DEVICE: BdevStatus = BdevStatus::errno(errno::ENODEV);
    const READ_ONLY: BdevStatus = BdevStatus::errno(errno::EROFS);
    const NO_MEMORY: BdevStatus = BdevStatus::errno(errno::ENOMEM);
    const CANCELED: BdevStatus = BdevStatus::errno(errno::ECANCELED);
    match status {
        BdevStatus::SUCCESS => Status::SUCCESS,
        BdevStatus::NO_RESOURCE | BdevStatus::REQUEUE | NO_MEMORY => Status::NAMESPACE_NOT_READY,
        BdevStatus::ABORTED | CANCELED => Status::ABORTED_BY_REQUEST,
        BdevStatus::MISCOMPARE => Status::COMPARE_FAILURE.with_dnr(),
        FUSED_FAILED => Status::ABORTED_FAILED_FUSED,
        PI_GUARD => Status::GUARD_CHECK_ERROR.with_dnr(),
        PI_APP => Status::APPLICATION_TAG_CHECK_ERROR.with_dnr(),
        PI_REF => Status::REFERENCE_TAG_CHECK_ERROR.with_dnr(),
        RESERVATION => Status::RESERVATION_CONFLICT.with_dnr(),
        BdevStatus::MEDIA => media(opcode),
        BdevStatus::INVALID => Status::INVALID_FIELD.with_dnr(),
        BdevStatus::NOT_SUPPORTED => Status::INVALID_OPCODE.with_dnr(),
        NO_SPACE => Status::CAPACITY_EXCEEDED.with_dnr(),
        READ_ONLY => Status::NAMESPACE_WRITE_PROTECTED.with_dnr(),
        NO_DEVICE => Status::NAMESPACE_NOT_READY,
        BdevStatus::IO_ERROR => Status::INTERNAL_ERROR,
        _ => Status::INTERNAL_ERROR,
    }
}

fn media(opcode: u8) -> Status {
    match opcode {
        nvm::READ | nvm::COMPARE => Status::UNRECOVERED_READ_ERROR,
        _ => Status::WRITE_FAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_of_an_io_becomes_a_status_of_nvme() {
        for (status, opcode, expected) in [
            (BdevStatus::SUCCESS, nvm::READ, Status::SUCCESS),
            (BdevStatus::MISCOMPARE, nvm::COMPARE, Status::COMPARE_FAILURE.with_dnr()),
            (BdevStatus::MEDIA, nvm::READ, Status::UNRECOVERED_READ_ERROR),
            (BdevStatus::MEDIA, nvm::WRITE, Status::WRITE_FAULT),
            (BdevStatus::ABORTED, nvm::READ, Status::ABORTED_BY_REQUEST),
            (BdevStatus::NO_RESOURCE, nvm::READ, Status::NAMESPACE_NOT_READY),
            (BdevStatus::errno(errno::ENOSPC), nvm::WRITE, Status::CAPACITY_EXCEEDED.with_dnr()),
            (BdevStatus::errno(errno::ENODEV), nvm::READ, Status::NAMESPACE_NOT_READY),
            (BdevStatus::errno(4095), nvm::READ, Status::INTERNAL_ERROR),
            (BdevStatus::from_raw(-4146), nvm::READ, Status::REFERENCE_TAG_CHECK_ERROR.with_dnr()),
        ] {
            assert_eq!(nvme_status(opcode, IoResult::new(status)), expected, "{status:?}");
        }
    }

    #[test]
    fn a_devices_own_status_is_passed_on() {
        let detail = 2 << 32 | 0x81 << 40 | 1 << 48;
        let result = IoResult::with_nvme(BdevStatus::IO_ERROR, detail);
        let expected = Status::UNRECOVERED_READ_ERROR.with_dnr();
        assert_eq!(nvme_status(nvm::READ, result), expected);
    }

    #[test]
    fn a_failure_never_reads_as_success() {
        let result = IoResult::with_nvme(BdevStatus::IO_ERROR, 0);
        assert_eq!(nvme_status(nvm::READ, result), Status::INTERNAL_ERROR);
    }
}
