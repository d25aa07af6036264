//! What a module takes: the limits that it declared, in the form that the data path needs.

use drivebay_plugin_api::*;

/// The limits that the data path needs, copied into each channel.
#[derive(Clone, Copy)]
pub(in crate::bdev) struct Limits {
    ops: u64,
    ops_allowed: u64,
    pub(in crate::bdev) must_allowed: u32,
    pub(in crate::bdev) block_size: u32,
    /// Bytes of separate metadata for each block; 0 = none.
    pub(in crate::bdev) md_size: u32,
    pub(in crate::bdev) align: u32,
    pub(in crate::bdev) write_unit: u32,
    pub(in crate::bdev) optimal_boundary: u32,
    pub(in crate::bdev) max_segments: u32,
    pub(in crate::bdev) max_segment_size: u32,
    pub(in crate::bdev) max_io_blocks: u32,
    pub(in crate::bdev) max_unmap: u32,
    pub(in crate::bdev) max_write_zeroes: u32,
    /// Blocks per zone; 0 = not zoned.
    pub(in crate::bdev) zone_size: u64,
    /// The longest append, in blocks; 0 = not zoned.
    pub(in crate::bdev) max_zone_append: u32,
    pub(in crate::bdev) split_data: bool,
    pub(in crate::bdev) fua_declared: bool,
    pub(in crate::bdev) write_cache: bool,
    pub(in crate::bdev) read_only: bool,
    pub(in crate::bdev) straight: Straight,
}

/// A read or write within these limits needs no further checks.
#[derive(Clone, Copy)]
pub(in crate::bdev) struct Straight {
    /// Whether writes may take the straight path, as reads do.
    pub(in crate::bdev) writes: bool,
    /// The maximum number of blocks that the module takes in one piece of memory; 0 = all I/O needs
    /// the full checks.
    pub(in crate::bdev) most_blocks: u64,
    /// A power of two, in blocks. No I/O on the straight path may cross a multiple of it.
    pub(in crate::bdev) boundary: u64,
    pub(in crate::bdev) align_mask: usize,
}

impl Limits {
    /// The limits of a bdev whose clients may send the ops of `ops_allowed`.
    pub(in crate::bdev) fn of(record: &bay_bdev_reg, ops_allowed: u64) -> Self {
        let split_data = record.optimal_boundary
            | record.max_segments
            | record.max_segment_size
            | record.max_io_blocks
            != 0;
        Self {
            ops: record.ops_mask,
            ops_allowed,
            must_allowed: BAY_IO_FUA,
            block_size: record.block_size,
            md_size: if record.md_interleave == 0 { record.md_size } else { 0 },
            align: record.align.max(1),
            write_unit: record.write_unit.max(1),
            optimal_boundary: record.optimal_boundary,
            max_segments: record.max_segments,
            max_segment_size: record.max_segment_size,
            max_io_blocks: record.max_io_blocks,
            max_unmap: record.max_unmap,
            max_write_zeroes: record.max_write_zeroes,
            zone_size: record.zone_size,
            max_zone_append: max_zone_append(record),
            split_data,
            fua_declared: record.must_flags & BAY_IO_FUA != 0,
            write_cache: record.flags & BAY_BDEV_WRITE_CACHE != 0,
            read_only: record.flags & BAY_BDEV_READ_ONLY != 0,
            straight: Straight::of(record),
        }
    }

    /// Whether I/O within the limits `self` never has more or longer pieces than `other` allows.
    pub(in crate::bdev) fn pieces_fit(&self, other: &Self) -> bool {
        let fits = |own: u32, limit: u32| limit == 0 || (own != 0 && own <= limit);
        fits(self.max_segments, other.max_segments)
            && fits(self.max_segment_size, other.max_segment_size)
            && fits(self.max_io_blocks, other.max_io_blocks)
    }

    /// Whether a client may send the op, which must be in [`OP_TABLE`].
    pub(in crate::bdev) fn allows(&self, op: u16) -> bool {
        self.ops_allowed & (1 << op) != 0
    }

    pub(in crate::bdev) fn declared(&self, op: u16) -> bool {
        self.ops & (1 << op) != 0
    }
}

/// The longest append to a zone that the module takes, in blocks; 0 = it has no zones. An append cannot be split.
pub(in crate::bdev) fn max_zone_append(record: &bay_bdev_reg) -> u32 {
    let in_segment = record.max_segment_size / record.block_size.max(1);
    let zone = u32::try_from(record.zone_size).unwrap_or(u32::MAX);
    let limits = [record.max_zone_append, record.max_io_blocks, in_segment];
    limits.into_iter().filter(|limit| *limit != 0).fold(zone, u32::min)
}

impl Straight {
    /// A boundary that no valid I/O crosses, because no bdev is this large. A range that overflows
    /// `u64` crosses it.
    const NO_BOUNDARY: u64 = 1 << 63;

    fn of(record: &bay_bdev_reg) -> Self {
        let has = |op: u16| record.ops_mask & (1 << op) != 0;
        let read_only = record.flags & BAY_BDEV_READ_ONLY != 0;
        let limit = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        let boundary = u64::from(record.optimal_boundary);
        let in_segment = limit(record.max_segment_size) / record.block_size;
        let most = limit(record.max_io_blocks).min(in_segment);
        // Separate metadata must be checked, so no I/O to such a bdev is straight.
        let has_metadata = record.md_size != 0 && record.md_interleave == 0;
        let is_simple =
            has(BAY_OP_READ) && !has_metadata && (boundary == 0 || boundary.is_power_of_two());
        Self {
            writes: has(BAY_OP_WRITE) && !read_only && record.write_unit <= 1,
            most_blocks: if is_simple { most.into() } else { 0 },
            boundary: if boundary == 0 { Self::NO_BOUNDARY } else { boundary },
            align_mask: record.align.max(1) as usize - 1,
        }
    }
}
