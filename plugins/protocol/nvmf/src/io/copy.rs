//! Checks the Copy command and its ranges. NVM Command Set 1.0, section 3.2.2.

use crate::model::Geometry;
use drivebay_sdk::bdev::Range;
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::nvm::{CopyCommand, CopyRange};

/// Maximum number of bytes of a source range: the length of a poll group's buffer.
pub const COPY_RANGE_BYTES: u32 = 128 << 10;

/// Maximum number of source ranges of one Copy. Their list is 4 KiB long.
pub const COPY_RANGES_MAX: u32 = 128;

/// A checked Copy: all of its ranges are in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    /// The ranges to read, in order.
    pub sources: Vec<Range>,
    /// The first block to write.
    pub to: u64,
    /// Whether the data must be durable before the Copy completes.
    pub is_durable: bool,
}

/// Maximum number of blocks of one source range, which Identify reports as MSSRL; 0 when a block is longer than the buffer.
pub fn copy_range_blocks(block_size: u32) -> u16 {
    u16::try_from(COPY_RANGE_BYTES / block_size.max(1)).unwrap_or(u16::MAX)
}

/// Maximum number of blocks of one Copy, which Identify reports as MCL: as many as its ranges can have.
pub fn copy_blocks(block_size: u32) -> u32 {
    u32::from(copy_range_blocks(block_size)) * COPY_RANGES_MAX
}

/// Checks a Copy. `data` lists its source ranges.
///
/// # Errors
/// COMMAND_SIZE_LIMIT_EXCEEDED for a range that is longer than MSSRL; LBA_OUT_OF_RANGE for a range outside the namespace.
pub fn copy(command: CopyCommand, data: &[u8], geometry: &Geometry) -> Result<CopyPlan, Status> {
    let out = Status::LBA_OUT_OF_RANGE.with_dnr();
    let inside = |lba: u64, nblocks: u64| {
        lba.checked_add(nblocks).is_some_and(|end| end <= geometry.num_blocks)
    };
    let max = u64::from(copy_range_blocks(geometry.block_size));
    let mut sources = Vec::with_capacity(command.num_ranges());
    let mut total = 0;
    for range in CopyRange::iter(data) {
        let nblocks = u64::from(range.nlb) + 1;
        if nblocks > max {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        }
        if !inside(range.slba, nblocks) {
            return Err(out);
        }
        total += nblocks;
        sources.push(Range::new(range.slba, nblocks));
    }
    if !inside(command.sdlba, total) {
        return Err(out);
    }
    let is_durable = command.fua && geometry.has_write_cache && geometry.ops.fua;
    Ok(CopyPlan { sources, to: command.sdlba, is_durable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::geometry;

    fn plan(sdlba: u64, ranges: &[(u64, u16)]) -> Result<CopyPlan, Status> {
        let range = |(slba, nlb): &(u64, u16)| CopyRange { slba: *slba, nlb: *nlb }.encode();
        let data: Vec<u8> = ranges.iter().flat_map(range).collect();
        let nr = u8::try_from(ranges.len() - 1).unwrap();
        copy(CopyCommand { nsid: 1, sdlba, nr, ..CopyCommand::default() }, &data, &geometry())
    }

    #[test]
    fn ranges_are_copied_one_behind_the_other() {
        let expected = CopyPlan {
            sources: vec![Range::new(8, 1), Range::new(100, 256)],
            to: 500,
            is_durable: false,
        };
        assert_eq!(plan(500, &[(8, 0), (100, 255)]), Ok(expected));
    }

    #[test]
    fn what_is_too_long_or_lies_outside_stops_all_of_it() {
        let out = Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        assert_eq!(plan(0, &[(1023, 0), (1023, 1)]), out);
        assert_eq!(plan(0, &[(u64::MAX, 0)]), out);
        assert_eq!(plan(1023, &[(0, 0), (0, 0)]), out, "the destination");
        assert_eq!(plan(u64::MAX, &[(0, 0)]), out);
        let too_long = Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        assert_eq!(plan(0, &[(0, 256)]), too_long);
    }

    #[test]
    fn the_limits_are_those_of_the_buffer() {
        assert_eq!((copy_range_blocks(512), copy_range_blocks(4096)), (256, 32));
        assert_eq!(copy_range_blocks(1 << 20), 0);
        assert_eq!(copy_blocks(512), 256 * 128);
    }
}
