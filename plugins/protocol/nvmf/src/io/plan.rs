//! From a command of the NVM command set to operations of a bdev. NVM Command Set 1.0, section 3.2.

use crate::model::Geometry;
use drivebay_sdk::bdev::Range;
use drivebay_spec_nvme::command::Fuse;
use drivebay_spec_nvme::nvm::{BlockCommand, CopyCommand, CopyRange, DatasetManagement, DsmRange};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::{Command, Status};

/// The operation of the bdev for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Read blocks into the request's data.
    Read(Range),
    /// Write blocks from the request's data; `true`: durable before the command completes.
    Write(Range, bool),
    /// Compare blocks with the request's data.
    Compare(Range),
    /// Zero blocks; `true`: durable before the command completes.
    WriteZeroes(Range, bool),
    /// Make all written data durable.
    Flush,
    /// Deallocate this many ranges, which the request's data lists; see [`deallocate`].
    Deallocate(usize),
    /// Copy the ranges that the request's data lists; see [`super::copy()`].
    Copy(CopyCommand),
    /// Nothing. The command completes immediately.
    Nothing,
    /// Send the reservation command to the app thread.
    Reservation,
}

/// Decides what a bdev of this geometry does for a command. `len`: length of the command's data, in bytes; `max_len`: most bytes that the
/// transport allows.
///
/// # Errors
/// The status that the command ends with.
#[inline]
pub fn plan(
    command: &Command,
    geometry: &Geometry,
    len: u32,
    max_len: u32,
) -> Result<Plan, Status> {
    if command.fuse() != Fuse::Normal {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let blocks = BlockCommand::from_command(command);
    match command.opcode() {
        nvm::READ => Ok(Plan::Read(data_range(&blocks, geometry, len, max_len)?)),
        nvm::WRITE => {
            check_writable(geometry)?;
            let range = data_range(&blocks, geometry, len, max_len)?;
            Ok(Plan::Write(range, must_be_durable(&blocks, geometry)))
        }
        nvm::FLUSH if geometry.ops.flush => Ok(Plan::Flush),
        nvm::FLUSH => Ok(Plan::Nothing),
        nvm::COMPARE if geometry.ops.compare => {
            Ok(Plan::Compare(data_range(&blocks, geometry, len, max_len)?))
        }
        nvm::WRITE_ZEROES if geometry.ops.write_zeroes => {
            check_writable(geometry)?;
            Ok(Plan::WriteZeroes(range(&blocks, geometry)?, must_be_durable(&blocks, geometry)))
        }
        nvm::DATASET_MANAGEMENT => {
            dataset_management(DatasetManagement::from_command(command), geometry, len)
        }
        nvm::RESERVATION_REGISTER
        | nvm::RESERVATION_REPORT
        | nvm::RESERVATION_ACQUIRE
        | nvm::RESERVATION_RELEASE => Ok(Plan::Reservation),
        nvm::COPY if super::copy_range_blocks(geometry.block_size) > 0 => {
            copy(CopyCommand::from_command(command), geometry, len)
        }
        _ => Err(Status::INVALID_OPCODE.with_dnr()),
    }
}

/// Without a write cache every write is durable.
fn must_be_durable(blocks: &BlockCommand, geometry: &Geometry) -> bool {
    blocks.fua && geometry.has_write_cache && geometry.ops.fua
}

fn check_writable(geometry: &Geometry) -> Result<(), Status> {
    if geometry.is_read_only {
        return Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
    }
    Ok(())
}

#[inline]
fn range(blocks: &BlockCommand, geometry: &Geometry) -> Result<Range, Status> {
    if !blocks.fits(geometry.num_blocks) {
        return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
    }
    Ok(Range::new(blocks.slba, blocks.num_blocks().into()))
}

/// The range of a command with data. The data must be exactly as long as the blocks, because SGLS does not report that it may be longer.
#[inline]
fn data_range(
    blocks: &BlockCommand,
    geometry: &Geometry,
    len: u32,
    max_len: u32,
) -> Result<Range, Status> {
    let range = range(blocks, geometry)?;
    let wanted = u64::from(blocks.num_blocks()) * u64::from(geometry.block_size);
    if wanted > u64::from(max_len) {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if wanted != u64::from(len) {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    Ok(range)
}

fn dataset_management(
    command: DatasetManagement,
    geometry: &Geometry,
    len: u32,
) -> Result<Plan, Status> {
    // Linux always sends a page, however few ranges it has.
    if (len as usize) < command.num_ranges() * DsmRange::LEN {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    // The other attributes are hints, and so is deallocation for a bdev without unmap.
    if !command.deallocate || !geometry.ops.unmap {
        return Ok(Plan::Nothing);
    }
    check_writable(geometry)?;
    Ok(Plan::Deallocate(command.num_ranges()))
}

/// Accepts only source ranges of descriptor format 0, as OCFS reports: within one namespace.
fn copy(command: CopyCommand, geometry: &Geometry, len: u32) -> Result<Plan, Status> {
    if command.format != 0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if command.num_ranges() > super::COPY_RANGES_MAX as usize {
        return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
    }
    if (len as usize) < command.num_ranges() * CopyRange::LEN {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    check_writable(geometry)?;
    Ok(Plan::Copy(command))
}

/// Reads the ranges to unmap from `data`. The result is in order, without empty ranges, and has no block twice. `blocks_max`: most blocks
/// of a range, as Identify reports.
///
/// # Errors
/// LBA_OUT_OF_RANGE when a range is not in the namespace, INVALID_FIELD when a range is too long. Then nothing is unmapped.
pub fn deallocate(data: &[u8], geometry: &Geometry, blocks_max: u32) -> Result<Vec<Range>, Status> {
    let ranges = DsmRange::iter(data).filter(|range| range.nlb > 0);
    let checked: Result<Vec<Range>, Status> = ranges
        .map(|range| {
            if range.nlb > blocks_max {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            let end = range.slba.checked_add(range.nlb.into());
            match end {
                Some(end) if end <= geometry.num_blocks => {
                    Ok(Range::new(range.slba, range.nlb.into()))
                }
                _ => Err(Status::LBA_OUT_OF_RANGE.with_dnr()),
            }
        })
        .collect();
    checked.map(merged)
}

/// Merges ranges that overlap or touch.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable_by_key(|range| range.lba);
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.lba <= last.lba + last.nblocks => {
                let end = (range.lba + range.nblocks).max(last.lba + last.nblocks);
                *last = Range::new(last.lba, end - last.lba);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ops;
    use crate::model::tests::geometry;

    const MAX: u32 = 131_072;

    fn blocks(opcode: u8, slba: u64, nlb: u16) -> Command {
        BlockCommand { nsid: 1, slba, nlb, ..BlockCommand::default() }.to_command(opcode)
    }

    fn deallocation(nr: u8) -> Command {
        DatasetManagement { nsid: 1, nr, deallocate: true, ..DatasetManagement::default() }
            .to_command()
    }

    #[test]
    fn each_command_becomes_its_operation() {
        let range = Range::new(8, 8);
        let fua = BlockCommand { nsid: 1, slba: 8, nlb: 7, fua: true, ..Default::default() };
        let hint = DatasetManagement { nsid: 1, nr: 0, ..Default::default() }.to_command();
        for (name, command, len, expected) in [
            ("read", blocks(nvm::READ, 8, 7), 4096, Plan::Read(range)),
            ("write", blocks(nvm::WRITE, 8, 7), 4096, Plan::Write(range, false)),
            ("write, fua", fua.to_command(nvm::WRITE), 4096, Plan::Write(range, true)),
            ("compare", blocks(nvm::COMPARE, 8, 7), 4096, Plan::Compare(range)),
            ("zeroes", blocks(nvm::WRITE_ZEROES, 8, 7), 0, Plan::WriteZeroes(range, false)),
            ("flush", Command::new(nvm::FLUSH).with_nsid(1), 0, Plan::Flush),
            ("deallocate", deallocation(1), 32, Plan::Deallocate(2)),
            ("hint", hint, 16, Plan::Nothing),
        ] {
            assert_eq!(plan(&command, &geometry(), len, MAX), Ok(expected), "{name}");
        }
    }

    #[test]
    fn each_mistake_has_its_status_and_is_not_to_be_tried_again() {
        let mut fused = blocks(nvm::READ, 0, 0);
        fused.dw[0] |= 1 << 8;
        for (name, command, len, expected) in [
            ("one past the end", blocks(nvm::READ, 1024, 0), 512, Status::LBA_OUT_OF_RANGE),
            ("across the end", blocks(nvm::WRITE, 1023, 1), 1024, Status::LBA_OUT_OF_RANGE),
            ("overflow", blocks(nvm::READ, u64::MAX, 1), 1024, Status::LBA_OUT_OF_RANGE),
            ("data too short", blocks(nvm::READ, 0, 1), 512, Status::DATA_SGL_LENGTH_INVALID),
            ("data too long", blocks(nvm::READ, 0, 0), 1024, Status::DATA_SGL_LENGTH_INVALID),
            ("beyond MDTS", blocks(nvm::READ, 0, 511), 262_144, Status::INVALID_FIELD),
            ("fused", fused, 512, Status::INVALID_FIELD),
            ("opcode", blocks(nvm::VERIFY, 0, 0), 0, Status::INVALID_OPCODE),
            ("ranges", deallocation(1), 16, Status::DATA_SGL_LENGTH_INVALID),
        ] {
            let status = plan(&command, &geometry(), len, MAX).unwrap_err();
            assert_eq!(status, expected.with_dnr(), "{name}");
        }
    }

    #[test]
    fn what_the_bdev_cannot_do_is_refused_or_needless() {
        let none = Geometry { ops: Ops::default(), ..geometry() };
        let run = |command: &Command, len| plan(command, &none, len, MAX);
        let refused = Err(Status::INVALID_OPCODE.with_dnr());
        assert_eq!(run(&blocks(nvm::COMPARE, 0, 0), 512), refused);
        assert_eq!(run(&blocks(nvm::WRITE_ZEROES, 0, 0), 0), refused);
        assert_eq!(run(&Command::new(nvm::FLUSH), 0), Ok(Plan::Nothing));
        assert_eq!(run(&deallocation(0), 16), Ok(Plan::Nothing));
    }

    #[test]
    fn a_read_only_namespace_is_read_and_never_written() {
        let protected = Geometry { is_read_only: true, ..geometry() };
        let run = |command: &Command, len| plan(command, &protected, len, MAX);
        assert!(run(&blocks(nvm::READ, 0, 0), 512).is_ok());
        let refused = Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
        assert_eq!(run(&blocks(nvm::WRITE, 0, 0), 512), refused);
        assert_eq!(run(&blocks(nvm::WRITE_ZEROES, 0, 0), 0), refused);
        assert_eq!(run(&deallocation(0), 16), refused);
    }

    #[test]
    fn one_range_out_of_bounds_stops_all_of_them() {
        let range = |slba, nlb| DsmRange { cattr: 0, nlb, slba }.encode();
        let good = [range(0, 8), range(5, 0), range(1016, 8)].concat();
        let expected = vec![Range::new(0, 8), Range::new(1016, 8)];
        assert_eq!(deallocate(&good, &geometry(), u32::MAX), Ok(expected));
        for bad in [range(1017, 8), range(u64::MAX, 2)] {
            let data = [range(0, 8), bad].concat();
            let refused = Err(Status::LBA_OUT_OF_RANGE.with_dnr());
            assert_eq!(deallocate(&data, &geometry(), u32::MAX), refused);
        }
    }

    #[test]
    fn no_block_is_unmapped_twice_and_no_range_is_longer_than_was_reported() {
        let range = |slba, nlb| DsmRange { cattr: 0, nlb, slba }.encode();
        let data = [range(64, 8), range(0, 1024), range(0, 1024), range(8, 4)].concat();
        let whole = vec![Range::new(0, 1024)];
        assert_eq!(deallocate(&data, &geometry(), 1024), Ok(whole));
        let refused = Err(Status::INVALID_FIELD.with_dnr());
        assert_eq!(deallocate(&data, &geometry(), 1023), refused);
        let apart = [range(16, 8), range(0, 8)].concat();
        let expected = vec![Range::new(0, 8), Range::new(16, 8)];
        assert_eq!(deallocate(&apart, &geometry(), 1024), Ok(expected));
    }
}
