//! Ops of an I/O and their operands.

use super::zone::ZoneAction;
use crate::error::{Error, Result};
use drivebay_plugin_api as api;
use std::ops::Range as Bytes;

/// `nblocks` blocks, starting at `lba`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub nblocks: u64,
}

impl Range {
    /// `nblocks` blocks, starting at `lba`.
    #[must_use]
    pub const fn new(lba: u64, nblocks: u64) -> Self {
        Self { lba, nblocks }
    }
}

/// One op with its operands. The buffers are part of the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read blocks into the buffers.
    Read(Range),
    /// Write blocks from the buffers.
    Write(Range),
    /// Make the written data durable.
    Flush,
    /// The contents of the blocks are no longer needed.
    Unmap(Range),
    /// Write zeroes: later reads of the blocks return zeroes.
    WriteZeroes(Range),
    /// Compare blocks with the buffers.
    Compare(Range),
    /// Atomically compare blocks with the first half of the buffers, then write the second half.
    CompareAndWrite(Range),
    /// Copy blocks within the bdev.
    Copy {
        /// Destination of the copy.
        to: Range,
        /// The first block to copy.
        from: u64,
    },
    /// Make reads of the blocks fail, until the blocks are written again.
    WriteUncorrectable(Range),
    /// Find the first allocated block at or after this one.
    SeekData(u64),
    /// Find the first unallocated block at or after this one.
    SeekHole(u64),
    /// Report zones into the buffers, as [`BdevIo::complete_with_zones`](super::BdevIo::complete_with_zones) does. The result has
    /// their number as its block.
    ZoneReport {
        /// The first block of the first zone.
        first: u64,
        /// Maximum number of zones. The buffers have room for so many.
        most: u64,
    },
    /// Apply an action to zones.
    ZoneManage {
        /// The first block of the zone. `None` = all zones whose state allows the action.
        zone: Option<u64>,
        /// The action.
        action: ZoneAction,
    },
    /// Append to a zone: the range has the zone's first block and the number of blocks. The result has the first block written.
    ZoneAppend(Range),
    /// Abort or finish all I/O in flight.
    Reset,
    /// Abort one I/O.
    Abort(IoId),
    /// Another op, by its number (`BAY_OP_*`). The bus never submits it to a bdev that did not declare it.
    Other(u16),
}

/// Identifies an I/O, for abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoId(pub(crate) u64);

impl Op {
    /// The op of the request.
    #[inline]
    pub(crate) fn of(io: &api::bay_io) -> Self {
        let range = Range::new(io.lba, io.nblocks);
        match io.op {
            api::BAY_OP_READ => Self::Read(range),
            api::BAY_OP_WRITE => Self::Write(range),
            api::BAY_OP_FLUSH => Self::Flush,
            api::BAY_OP_UNMAP => Self::Unmap(range),
            api::BAY_OP_WRITE_ZEROES => Self::WriteZeroes(range),
            api::BAY_OP_COMPARE => Self::Compare(range),
            api::BAY_OP_COMPARE_AND_WRITE => Self::CompareAndWrite(range),
            api::BAY_OP_COPY => Self::Copy { to: range, from: io.arg[0] },
            api::BAY_OP_WRITE_UNCORRECTABLE => Self::WriteUncorrectable(range),
            api::BAY_OP_SEEK_DATA => Self::SeekData(io.lba),
            api::BAY_OP_SEEK_HOLE => Self::SeekHole(io.lba),
            api::BAY_OP_ZONE_REPORT => Self::ZoneReport { first: io.lba, most: io.arg[0] },
            api::BAY_OP_ZONE_MANAGE => Self::zone_manage(io),
            api::BAY_OP_ZONE_APPEND => Self::ZoneAppend(range),
            api::BAY_OP_RESET => Self::Reset,
            api::BAY_OP_ABORT => Self::Abort(IoId(io.arg[0])),
            other => Self::Other(other),
        }
    }

    fn zone_manage(io: &api::bay_io) -> Self {
        let is_for_all = io.arg[0] & api::BAY_ZONE_ALL != 0;
        match ZoneAction::from_raw(io.arg[0] & !api::BAY_ZONE_ALL) {
            Some(action) => Self::ZoneManage { zone: (!is_for_all).then_some(io.lba), action },
            None => Self::Other(io.op),
        }
    }

    /// The op's number, its blocks and its first argument, as in the ABI.
    #[inline]
    pub(crate) fn to_raw(self) -> (u16, Range, u64) {
        const NONE: Range = Range::new(0, 0);
        match self {
            Self::Read(range) => (api::BAY_OP_READ, range, 0),
            Self::Write(range) => (api::BAY_OP_WRITE, range, 0),
            Self::Flush => (api::BAY_OP_FLUSH, NONE, 0),
            Self::Unmap(range) => (api::BAY_OP_UNMAP, range, 0),
            Self::WriteZeroes(range) => (api::BAY_OP_WRITE_ZEROES, range, 0),
            Self::Compare(range) => (api::BAY_OP_COMPARE, range, 0),
            Self::CompareAndWrite(range) => (api::BAY_OP_COMPARE_AND_WRITE, range, 0),
            Self::Copy { to, from } => (api::BAY_OP_COPY, to, from),
            Self::WriteUncorrectable(range) => (api::BAY_OP_WRITE_UNCORRECTABLE, range, 0),
            Self::SeekData(lba) => (api::BAY_OP_SEEK_DATA, Range::new(lba, 0), 0),
            Self::SeekHole(lba) => (api::BAY_OP_SEEK_HOLE, Range::new(lba, 0), 0),
            Self::ZoneReport { first, most } => {
                (api::BAY_OP_ZONE_REPORT, Range::new(first, 0), most)
            }
            Self::ZoneManage { zone: Some(lba), action } => {
                (api::BAY_OP_ZONE_MANAGE, Range::new(lba, 0), action.raw())
            }
            Self::ZoneManage { zone: None, action } => {
                (api::BAY_OP_ZONE_MANAGE, NONE, action.raw() | api::BAY_ZONE_ALL)
            }
            Self::ZoneAppend(range) => (api::BAY_OP_ZONE_APPEND, range, 0),
            Self::Reset => (api::BAY_OP_RESET, NONE, 0),
            Self::Abort(id) => (api::BAY_OP_ABORT, NONE, id.0),
            Self::Other(op) => (op, NONE, 0),
        }
    }

    /// The op's rules, from the table that the bus checks.
    #[inline]
    pub(crate) fn rules(self) -> Option<&'static api::OpRules> {
        api::op_rules(self.to_raw().0)
    }

    /// Whether the op changes the bdev. If so, it needs a descriptor opened for writing.
    #[must_use]
    pub fn writes(self) -> bool {
        self.rules().is_some_and(|rules| rules.writes)
    }

    /// Whether the op has data in the buffers.
    #[inline]
    #[must_use]
    pub fn has_data(self) -> bool {
        self.rules().is_some_and(|rules| rules.data != api::Data::None)
    }
}

/// A set of ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpSet(u64);

impl OpSet {
    /// Read.
    pub const READ: Self = Self(1 << api::BAY_OP_READ);
    /// Write.
    pub const WRITE: Self = Self(1 << api::BAY_OP_WRITE);
    /// Read and write.
    pub const READ_WRITE: Self = Self::READ.with(Self::WRITE);
    /// Flush.
    pub const FLUSH: Self = Self(1 << api::BAY_OP_FLUSH);
    /// Unmap.
    pub const UNMAP: Self = Self(1 << api::BAY_OP_UNMAP);
    /// Write zeroes.
    pub const WRITE_ZEROES: Self = Self(1 << api::BAY_OP_WRITE_ZEROES);
    /// Compare.
    pub const COMPARE: Self = Self(1 << api::BAY_OP_COMPARE);
    /// Compare and write.
    pub const COMPARE_AND_WRITE: Self = Self(1 << api::BAY_OP_COMPARE_AND_WRITE);
    /// Copy.
    pub const COPY: Self = Self(1 << api::BAY_OP_COPY);
    /// Write uncorrectable.
    pub const WRITE_UNCORRECTABLE: Self = Self(1 << api::BAY_OP_WRITE_UNCORRECTABLE);
    /// Seek data and seek hole.
    pub const SEEK: Self = Self(1 << api::BAY_OP_SEEK_DATA | 1 << api::BAY_OP_SEEK_HOLE);
    /// Report of zones and actions on them.
    pub const ZONES: Self = Self(1 << api::BAY_OP_ZONE_REPORT | 1 << api::BAY_OP_ZONE_MANAGE);
    /// Append to a zone.
    pub const ZONE_APPEND: Self = Self(1 << api::BAY_OP_ZONE_APPEND);
    /// Reset.
    pub const RESET: Self = Self(1 << api::BAY_OP_RESET);
    /// Abort.
    pub const ABORT: Self = Self(1 << api::BAY_OP_ABORT);

    /// Makes a set from an `ops_mask`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set as an `ops_mask`.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without the ops of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set contains all of `other`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Flags of an I/O. The low 16 bits are hints; a module that does not know one of the high 16 bits must refuse the I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoFlags(u32);

impl IoFlags {
    /// No flags.
    pub const NONE: Self = Self(0);
    /// The data is durable before the I/O completes.
    pub const FUA: Self = Self(api::BAY_IO_FUA);

    /// Makes flags from a bit mask.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The flags as a bit mask.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Block size and number of blocks. Their product fits into a memory address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block_size: u32,
    num_blocks: u64,
}

impl Geometry {
    /// `num_blocks` blocks of `block_size` bytes. `block_size` is a multiple of 512.
    ///
    /// # Errors
    /// `EINVAL`, naming the field.
    pub fn new(block_size: u32, num_blocks: u64) -> Result<Self> {
        if block_size == 0 || !block_size.is_multiple_of(512) {
            return Err(Error::invalid("block_size", block_size, "a multiple of 512"));
        }
        Self::new_any(block_size, num_blocks)
    }

    /// As [`new`](Self::new), for any block size, such as that of a bdev with interleaved metadata.
    ///
    /// # Errors
    /// `EINVAL`, naming the field.
    pub fn new_any(block_size: u32, num_blocks: u64) -> Result<Self> {
        let num_blocks_max = i64::MAX.unsigned_abs() / u64::from(block_size.max(1));
        if block_size == 0 {
            return Err(Error::invalid("block_size", 0, "at least 1"));
        }
        if num_blocks == 0 || num_blocks > num_blocks_max {
            return Err(Error::invalid("num_blocks", num_blocks, format!("1 to {num_blocks_max}")));
        }
        Ok(Self { block_size, num_blocks })
    }

    /// Block size, in bytes.
    #[must_use]
    pub const fn block_size(self) -> u32 {
        self.block_size
    }

    /// Number of blocks.
    #[must_use]
    pub const fn num_blocks(self) -> u64 {
        self.num_blocks
    }

    /// Capacity, in bytes.
    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        self.num_blocks * self.block_size as u64
    }

    /// The bytes of a range of blocks; `None` when the range is not within the geometry.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "64-bit targets; the size is an i64")]
    pub fn bytes(self, range: Range) -> Option<Bytes<usize>> {
        let end = range.lba.checked_add(range.nblocks).filter(|end| *end <= self.num_blocks)?;
        let block_size = u64::from(self.block_size);
        Some((range.lba * block_size) as usize..(end * block_size) as usize)
    }
}
