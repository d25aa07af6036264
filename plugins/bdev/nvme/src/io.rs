//! Turns an I/O of the bus into a command of the NVM command set, and the command's status into the status of the I/O.

use std::cell::Cell;

use drivebay_nvme_driver::pcie;
use drivebay_nvme_driver::qpair::{Payload, Transfer};
use drivebay_nvme_driver::spec::nvm::{BlockCommand, DatasetManagement, DsmRange};
use drivebay_nvme_driver::spec::opcode::{nvm, zoned};
use drivebay_nvme_driver::spec::status::sct;
use drivebay_nvme_driver::spec::{Command, Completion, Status as NvmeStatus};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::prelude::*;

use crate::link::{InList, OutList, Wire};
use crate::zones;

/// Length of the data of an unmap, in bytes: one range.
const RANGE_LEN: u32 = 16;
const _: () = assert!(RANGE_LEN as usize == DsmRange::LEN);

/// An I/O, from the bus to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) io: BdevIo,
    /// How many times it was retried.
    pub(crate) retries: u32,
    /// When it first ended with a path error, on the host's clock in nanoseconds; 0 = it did not.
    pub(crate) path_failed_ns: u64,
    /// When the command was sent, on the host's clock in nanoseconds. Only set when commands have a timeout or are counted by path.
    pub(crate) sent_ns: u64,
    /// How many times it was reported as overdue since it was sent.
    pub(crate) overdue: Cell<u8>,
    /// The data of an unmap.
    range: [u8; DsmRange::LEN],
    /// A copy of the data, when a PCIe controller cannot access the client's buffers.
    copy: Option<Buf>,
    /// The data of a report of zones, as the controller sends it; empty for other operations.
    report: Vec<u8>,
    /// Whether it was taken back from a controller that did not complete it, and that may have executed it.
    may_have_run: bool,
}

impl Request {
    pub(crate) fn new(io: BdevIo) -> Self {
        Self {
            io,
            retries: 0,
            path_failed_ns: 0,
            sent_ns: 0,
            overdue: Cell::new(0),
            range: [0; DsmRange::LEN],
            copy: None,
            report: Vec::new(),
            may_have_run: false,
        }
    }

    /// Whether the command transfers data, from the I/O's buffers or from other memory such as the ranges of an unmap.
    fn has_data(&self) -> bool {
        use Op::{Compare, Read, Unmap, Write, ZoneAppend, ZoneReport};
        let op = self.io.op();
        matches!(op, Read(_) | Write(_) | Compare(_) | Unmap(_) | ZoneAppend(_) | ZoneReport { .. })
    }

    /// Whether the command's data is not in the client's buffers.
    fn has_own_data(&self) -> bool {
        matches!(self.io.op(), Op::Unmap(_) | Op::ZoneReport { .. })
    }

    /// Length of the command's data, in bytes.
    pub(crate) fn data_len(&self) -> u32 {
        match self.io.op() {
            Op::Unmap(_) => RANGE_LEN,
            Op::ZoneReport { .. } => u32::try_from(self.report.len()).unwrap_or(u32::MAX),
            _ => u32::try_from(self.io.buffers().len()).unwrap_or(u32::MAX),
        }
    }

    /// Gets a buffer that PCIe controllers can access, and copies the data of a write into it. Returns false when no buffer is free now.
    pub(crate) fn copy_for_device(&mut self) -> bool {
        let Some(mut copy) = buf::get(self.data_len()) else { return false };
        match self.io.op() {
            Op::Unmap(_) => copy.copy_from_slice(&self.range),
            Op::Read(_) | Op::ZoneReport { .. } => {}
            _ => {
                self.io.buffers().copy_to(&mut copy);
            }
        }
        self.copy = Some(copy);
        true
    }

    /// Copies the data of a read from the pool buffer to the client's buffers, after the command has ended.
    pub(crate) fn take_from_device(&mut self, is_success: bool) {
        let Some(copy) = self.copy.take().filter(|_| is_success) else { return };
        match self.io.op() {
            Op::Read(_) => drop(self.io.buffers().fill_from(&copy)),
            Op::ZoneReport { .. } => self.report.copy_from_slice(&copy),
            _ => {}
        }
    }

    /// Whether it may be sent again while its first copy may still execute.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.io.op(), Op::Read(_) | Op::Compare(_) | Op::Flush | Op::ZoneReport { .. })
    }

    /// The request, which a controller did not complete.
    pub(crate) fn taken_back(self) -> Self {
        Self { may_have_run: true, ..self }
    }

    /// Whether it cannot be sent again, because it may have been executed: a second append would write the data twice.
    pub(crate) fn is_spent(&self) -> bool {
        self.may_have_run && matches!(self.io.op(), Op::ZoneAppend(_))
    }

    /// The opcode of its command.
    pub(crate) fn opcode(&self) -> u8 {
        match self.io.op() {
            Op::Read(_) => nvm::READ,
            Op::Write(_) => nvm::WRITE,
            Op::Compare(_) => nvm::COMPARE,
            Op::WriteZeroes(_) => nvm::WRITE_ZEROES,
            Op::Unmap(_) => nvm::DATASET_MANAGEMENT,
            Op::ZoneReport { .. } => zoned::ZONE_MANAGEMENT_RECEIVE,
            Op::ZoneManage { .. } => zoned::ZONE_MANAGEMENT_SEND,
            Op::ZoneAppend(_) => zoned::ZONE_APPEND,
            _ => nvm::FLUSH,
        }
    }

    /// The command, and which way its data goes; `None` for an operation that a namespace does not support.
    pub(crate) fn command(&mut self, nsid: u32, block_size: u32) -> Option<(Command, Transfer)> {
        let fua = self.io.flags().contains(IoFlags::FUA);
        let blocks = |range: Range| {
            let nlb = u16::try_from(range.nblocks.checked_sub(1)?).ok()?;
            Some(BlockCommand { nsid, slba: range.lba, nlb, ..BlockCommand::default() })
        };
        let len = |range: Range| u32::try_from(range.nblocks.checked_mul(block_size.into())?).ok();
        Some(match self.io.op() {
            Op::Read(range) => (blocks(range)?.to_command(nvm::READ), Transfer::In(len(range)?)),
            Op::Write(range) => {
                let write = BlockCommand { fua, ..blocks(range)? };
                (write.to_command(nvm::WRITE), Transfer::Out(len(range)?))
            }
            Op::Compare(range) => {
                (blocks(range)?.to_command(nvm::COMPARE), Transfer::Out(len(range)?))
            }
            Op::WriteZeroes(range) => {
                let write = BlockCommand { fua, ..blocks(range)? };
                (write.to_command(nvm::WRITE_ZEROES), Transfer::None)
            }
            Op::Unmap(range) => {
                let nlb = u32::try_from(range.nblocks).ok()?;
                self.range = DsmRange { cattr: 0, nlb, slba: range.lba }.encode();
                let unmap =
                    DatasetManagement { nsid, deallocate: true, ..DatasetManagement::default() };
                (unmap.to_command(), Transfer::Out(RANGE_LEN))
            }
            Op::ZoneReport { first, most } => {
                let (command, report) = zones::report(nsid, first, most);
                let len = u32::try_from(report.len()).ok()?;
                self.report = report;
                (command, Transfer::In(len))
            }
            Op::ZoneManage { zone, action } => (zones::manage(nsid, zone, action), Transfer::None),
            Op::ZoneAppend(range) => {
                let append = BlockCommand { fua, ..blocks(range)? };
                (append.to_command(zoned::ZONE_APPEND), Transfer::Out(len(range)?))
            }
            Op::Flush => (Command::new(nvm::FLUSH).with_nsid(nsid), Transfer::None),
            _ => return None,
        })
    }
}

impl Payload for Request {
    fn put(&mut self, offset: u32, bytes: &[u8]) {
        if matches!(self.io.op(), Op::ZoneReport { .. }) {
            let place = self.report.get_mut(offset as usize..).unwrap_or_default();
            place.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
            return;
        }
        self.io.buffers().fill_at(offset as usize, bytes);
    }

    fn look(&self, offset: u32, len: u32, see: &mut dyn FnMut(&[u8])) {
        if matches!(self.io.op(), Op::Unmap(_)) {
            see(&self.range);
        } else {
            self.io.buffers().look_at(offset as usize, len as usize, see);
        }
    }
}

impl pcie::Payload for Request {
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> {
        let copy = self.copy.as_ref().map(|copy| Some((copy.for_device()?, copy.len())));
        // No device can access the list of an unmap or the memory of a report, so they need a copy.
        let unreached = (self.has_own_data() && copy.is_none()).then_some(None);
        let is_direct = self.has_data() && !self.has_own_data() && copy.is_none();
        let direct = is_direct.then(|| self.io.buffers().for_device());
        copy.into_iter().chain(unreached).chain(direct.into_iter().flatten())
    }
}

impl Wire for Request {
    fn out<'a>(&'a self, offset: u32, len: u32, pieces: &mut OutList<'a>) {
        if matches!(self.io.op(), Op::Unmap(_)) {
            let rest = self.range.get(offset as usize..).unwrap_or_default();
            pieces.push(drivebay_sdk::runtime::net::OutPiece::new(rest));
            return;
        }
        for piece in self.io.out_pieces(offset as usize, len as usize) {
            if !pieces.push(piece) {
                return;
            }
        }
    }

    fn into<'a>(&'a self, offset: u32, len: u32, pieces: &mut InList<'a>) {
        if self.has_own_data() {
            return; // `put` copies it
        }
        for piece in self.io.in_pieces(offset as usize, len as usize) {
            if !pieces.push(piece) {
                return;
            }
        }
    }
}

/// What to do after a completion.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The I/O has ended.
    End(IoResult),
    /// The path is at fault: the I/O uses another path, or this one when it works again.
    Path(IoResult),
    /// The device allows a retry after the delay that it names: 0 = at once, 1 to 3 = CRDT.
    Again(u8, IoResult),
}

impl Verdict {
    /// The same result, as the end of the I/O.
    fn without_retry(self) -> Self {
        let (Self::End(result) | Self::Path(result) | Self::Again(_, result)) = self;
        Self::End(result)
    }
}

/// Judges a completion. NVMe Base 2.0, section 3.3.3.2.1. A read that did not bring all of its data has failed.
/// `zone_size`: blocks per zone of the namespace; 0 = it is not zoned.
pub(crate) fn judge(
    request: &Request,
    completion: &Completion,
    received: u32,
    zone_size: u64,
) -> Verdict {
    let status = completion.status;
    if status.is_success() {
        let op = request.io.op();
        let reads = matches!(op, Op::Read(_) | Op::ZoneReport { .. });
        if reads && received != request.data_len() {
            return Verdict::End(result(NvmeStatus::DATA_TRANSFER_ERROR, completion.dw0()));
        }
        return Verdict::End(match op {
            Op::ZoneReport { first, .. } => {
                zones::reported(&request.io, first, zone_size, &request.report)
            }
            Op::ZoneAppend(Range { lba, nblocks }) => {
                zones::appended(lba, nblocks, zone_size, completion.result)
            }
            _ => IoResult::new(Status::SUCCESS),
        });
    }
    if request.may_have_run && zones::is_refusal(status) {
        // The first copy may have moved the write pointer, so this says nothing about the client's request.
        return Verdict::End(no_path());
    }
    let verdict = judge_failure(status, completion.dw0(), request.overdue.get() > 0);
    if matches!(request.io.op(), Op::ZoneAppend(_)) && !proves_no_execution(status) {
        return verdict.without_retry();
    }
    verdict
}

/// Whether no part of a command with this status has been executed. Only such an append is sent again, because a second one writes
/// behind the first.
fn proves_no_execution(status: NvmeStatus) -> bool {
    let code = status.code();
    code == NvmeStatus::NAMESPACE_NOT_READY || is_ana_error(status)
}

/// Whether the status says that the namespace is not accessible by this path now.
pub(crate) fn is_ana_error(status: NvmeStatus) -> bool {
    matches!(
        status.code(),
        NvmeStatus::ANA_PERSISTENT_LOSS | NvmeStatus::ANA_INACCESSIBLE | NvmeStatus::ANA_TRANSITION
    )
}

/// Judges a status other than success. `is_overdue`: the plugin may have sent an Abort for the command.
fn judge_failure(status: NvmeStatus, dw0: u32, is_overdue: bool) -> Verdict {
    let result = result(status, dw0);
    if status.dnr() {
        return Verdict::End(result);
    }
    match status.code() {
        // The Abort was late: it was meant for an earlier command with the same identifier.
        NvmeStatus::ABORTED_BY_REQUEST if !is_overdue => Verdict::Again(status.crd(), result),
        NvmeStatus::ABORTED_BY_REQUEST
        | NvmeStatus::COMPARE_FAILURE
        | NvmeStatus::RESERVATION_CONFLICT
        | NvmeStatus::LBA_OUT_OF_RANGE
        | NvmeStatus::INVALID_OPCODE
        | NvmeStatus::INVALID_FIELD => Verdict::End(result),
        _ if zones::is_refusal(status) => Verdict::End(result),
        NvmeStatus::ABORTED_SQ_DELETION => Verdict::Path(result),
        _ if status.sct() == sct::PATH => Verdict::Path(result),
        _ => Verdict::Again(status.crd(), result),
    }
}

/// The bus's status for an NVMe status. The result carries both.
pub(crate) fn result(status: NvmeStatus, dw0: u32) -> IoResult {
    let of_bus = match status.code() {
        NvmeStatus::SUCCESS => Status::SUCCESS,
        NvmeStatus::ABORTED_BY_REQUEST => Status::ABORTED,
        NvmeStatus::COMPARE_FAILURE => Status::MISCOMPARE,
        NvmeStatus::INVALID_FIELD | NvmeStatus::LBA_OUT_OF_RANGE => Status::INVALID,
        NvmeStatus::INVALID_OPCODE => Status::NOT_SUPPORTED,
        NvmeStatus::CAPACITY_EXCEEDED => Status::errno(errno::ENOSPC),
        NvmeStatus::NAMESPACE_WRITE_PROTECTED => Status::errno(errno::EROFS),
        NvmeStatus::ZONE_BOUNDARY_ERROR
        | NvmeStatus::ZONE_INVALID_WRITE
        | NvmeStatus::INVALID_ZONE_STATE_TRANSITION => Status::INVALID,
        NvmeStatus::ZONE_IS_FULL => Status::errno(errno::ENOSPC),
        NvmeStatus::ZONE_IS_READ_ONLY => Status::errno(errno::EROFS),
        NvmeStatus::TOO_MANY_ACTIVE_ZONES | NvmeStatus::TOO_MANY_OPEN_ZONES => {
            Status::errno(errno::EBUSY)
        }
        NvmeStatus::WRITE_FAULT | NvmeStatus::UNRECOVERED_READ_ERROR => Status::MEDIA,
        _ => Status::IO_ERROR,
    };
    let detail = u64::from(dw0)
        | u64::from(status.sct()) << 32
        | u64::from(status.sc()) << 40
        | u64::from(status.dnr()) << 48
        | u64::from(status.more()) << 49
        | u64::from(status.crd()) << 50;
    IoResult::with_nvme(of_bus, detail)
}

/// The result of an I/O that found no path.
pub(crate) fn no_path() -> IoResult {
    result(NvmeStatus::INTERNAL_PATH_ERROR, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_append_is_sent_again_only_if_it_was_certainly_not_executed() {
        for status in [NvmeStatus::NAMESPACE_NOT_READY, NvmeStatus::ANA_INACCESSIBLE] {
            assert!(proves_no_execution(status));
        }
        for status in [
            NvmeStatus::ABORTED_BY_REQUEST,
            NvmeStatus::ABORTED_SQ_DELETION,
            NvmeStatus::INTERNAL_PATH_ERROR,
            NvmeStatus::WRITE_FAULT,
        ] {
            assert!(!proves_no_execution(status));
            let verdict = judge_failure(status, 0, false);
            assert!(!matches!(verdict, Verdict::End(_)), "a write is sent again");
            assert!(matches!(verdict.without_retry(), Verdict::End(_)));
        }
    }

    #[test]
    fn an_aborted_command_is_sent_again_unless_it_was_overdue_or_must_not_be_retried() {
        let aborted = NvmeStatus::ABORTED_BY_REQUEST;
        assert!(matches!(judge_failure(aborted, 0, false), Verdict::Again(0, _)));
        let overdue = judge_failure(aborted, 0, true);
        assert!(matches!(overdue, Verdict::End(result) if result.status == Status::ABORTED));
        assert!(matches!(judge_failure(aborted.with_dnr(), 0, false), Verdict::End(_)));
    }
}
