//! The ops of a request, and one table that says what each op does.
//!
//! The bus, the SDK and the tools all use [`OP_TABLE`]. The bus refuses an op that is not in the table,
//! whatever a module declares.

/// Read `nblocks` at `lba` into `iov`.
pub const BAY_OP_READ: u16 = 1;
/// Write `nblocks` at `lba` from `iov`.
pub const BAY_OP_WRITE: u16 = 2;
/// Make all data written so far durable.
pub const BAY_OP_FLUSH: u16 = 3;
/// The client no longer needs the contents of the blocks.
pub const BAY_OP_UNMAP: u16 = 4;
/// Write zeroes: later reads of the blocks return zeroes.
pub const BAY_OP_WRITE_ZEROES: u16 = 5;
/// Compare the blocks with `iov`. The status is `BAY_ST_MISCOMPARE` when they differ.
pub const BAY_OP_COMPARE: u16 = 6;
/// Abort or finish all I/O in flight of the bdev.
pub const BAY_OP_RESET: u16 = 7;
/// Abort the I/O whose id is `arg[0]`, if that is still possible. Completes with success or `-ENOENT`.
pub const BAY_OP_ABORT: u16 = 8;
/// Atomically compare the blocks with the first half of `iov`, then write the second half. If the blocks differ,
/// write nothing; the status is `BAY_ST_MISCOMPARE`.
pub const BAY_OP_COMPARE_AND_WRITE: u16 = 9;
/// Copy `nblocks` from the block in `arg[0]` to `lba`. The two ranges do not overlap.
pub const BAY_OP_COPY: u16 = 10;
/// Later reads of the blocks fail with a media error, until the blocks are written again.
pub const BAY_OP_WRITE_UNCORRECTABLE: u16 = 11;
/// Store in `detail` the first allocated block at or after `lba`, or `UINT64_MAX` when there is none (`BAY_DETAIL_BLOCK`).
pub const BAY_OP_SEEK_DATA: u16 = 12;
/// Store in `detail` the first unallocated block at or after `lba`, or `UINT64_MAX` when there is none
/// (`BAY_DETAIL_BLOCK`).
pub const BAY_OP_SEEK_HOLE: u16 = 13;
/// Fill `iov` with one `bay_zone` for each zone, starting with the zone that begins at `lba`, at most `arg[0]` zones.
/// Store their number in `detail` (`BAY_DETAIL_BLOCK`). Each element of `iov` is aligned to 8 bytes, its length is a
/// multiple of the size of `bay_zone`, and together they have room for `arg[0]` zones.
pub const BAY_OP_ZONE_REPORT: u16 = 14;
/// Apply the action `arg[0]` (`BAY_ZONE_*`) to the zone that begins at `lba`, or, with `BAY_ZONE_ALL`, to all zones.
pub const BAY_OP_ZONE_MANAGE: u16 = 15;
/// Write `nblocks` from `iov` at the write pointer of the zone that begins at `lba`. Store the first block written in
/// `detail` (`BAY_DETAIL_BLOCK`). The bus never splits it.
pub const BAY_OP_ZONE_APPEND: u16 = 16;
/// Execute the NVMe admin command that `arg[0]` points to (`arg_len` = 64 bytes), with `iov` as its data.
pub const BAY_OP_NVME_ADMIN: u16 = 17;
/// Execute the NVMe I/O command that `arg[0]` points to (`arg_len` = 64 bytes), with `iov` as its data.
pub const BAY_OP_NVME_IO: u16 = 18;
/// Reservation Register: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.3).
pub const BAY_OP_RESERVATION_REGISTER: u16 = 19;
/// Reservation Acquire: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.2).
pub const BAY_OP_RESERVATION_ACQUIRE: u16 = 20;
/// Reservation Release: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.4).
pub const BAY_OP_RESERVATION_RELEASE: u16 = 21;
/// Reservation Report: `arg[0]` is dword 11, `iov` receives the data of the NVMe command (NVM Express Base 2.0, section 7.5).
pub const BAY_OP_RESERVATION_REPORT: u16 = 22;

/// `BAY_OP_ZONE_MANAGE`: close the zone.
pub const BAY_ZONE_CLOSE: u64 = 1;
/// `BAY_OP_ZONE_MANAGE`: finish the zone. It is full afterwards.
pub const BAY_ZONE_FINISH: u64 = 2;
/// `BAY_OP_ZONE_MANAGE`: open the zone explicitly.
pub const BAY_ZONE_OPEN: u64 = 3;
/// `BAY_OP_ZONE_MANAGE`: reset the zone. It is empty afterwards.
pub const BAY_ZONE_RESET: u64 = 4;
/// `BAY_OP_ZONE_MANAGE`: take the zone offline.
pub const BAY_ZONE_OFFLINE: u64 = 5;
/// Added to an action: apply it to all zones whose state allows it, and ignore the others. `lba` is 0.
pub const BAY_ZONE_ALL: u64 = 1 << 8;

/// The fields of a request that refer to blocks of the bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// None: the op refers to the whole bdev or to another request.
    None,
    /// `nblocks` blocks, starting at `lba`.
    Blocks,
    /// `nblocks` blocks starting at `lba`, and as many starting at `arg[0]`.
    TwoRanges,
    /// The block `lba`.
    Block,
    /// The zone that begins at `lba`, and `nblocks` blocks somewhere in it.
    Zone,
    /// The blocks are in the NVMe command, in a form that only the device understands.
    Command,
}

/// What `iov` contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: `iov` is ignored.
    None,
    /// Exactly the blocks of the range.
    Blocks,
    /// The data of the range twice.
    TwiceBlocks,
    /// The number of bytes depends on the op.
    Bytes,
}

/// The rules of one op, for the bus.
#[derive(Clone, Copy, Debug)]
pub struct OpRules {
    /// `BAY_OP_*`.
    pub op: u16,
    /// The op's name in `supported_io_types`.
    pub name: &'static str,
    /// Whether the result depends on the contents of the blocks.
    pub reads: bool,
    /// Whether the op changes the bdev. If so, the bus refuses it on a read-only descriptor or bdev.
    pub writes: bool,
    /// The blocks that the op refers to. A filter that remaps blocks changes these fields.
    pub extent: Extent,
    /// The contents of the scatter/gather list.
    pub data: Data,
    /// Whether `BAY_IO_FUA` may be set.
    pub may_be_fua: bool,
}

const fn rules(op: u16, name: &'static str, extent: Extent, data: Data) -> OpRules {
    OpRules { op, name, reads: false, writes: false, extent, data, may_be_fua: false }
}

impl OpRules {
    const fn reading(self) -> Self {
        Self { reads: true, ..self }
    }

    const fn writing(self) -> Self {
        Self { writes: true, ..self }
    }

    const fn fua(self) -> Self {
        Self { may_be_fua: true, ..self }
    }
}

/// All ops, ordered by number. The numbers begin at 1.
pub const OP_TABLE: [OpRules; 22] = [
    rules(BAY_OP_READ, "read", Extent::Blocks, Data::Blocks).reading().fua(),
    rules(BAY_OP_WRITE, "write", Extent::Blocks, Data::Blocks).writing().fua(),
    rules(BAY_OP_FLUSH, "flush", Extent::None, Data::None),
    rules(BAY_OP_UNMAP, "unmap", Extent::Blocks, Data::None).writing().fua(),
    rules(BAY_OP_WRITE_ZEROES, "write_zeroes", Extent::Blocks, Data::None).writing().fua(),
    rules(BAY_OP_COMPARE, "compare", Extent::Blocks, Data::Blocks).reading().fua(),
    rules(BAY_OP_RESET, "reset", Extent::None, Data::None),
    rules(BAY_OP_ABORT, "abort", Extent::None, Data::None),
    rules(BAY_OP_COMPARE_AND_WRITE, "compare_and_write", Extent::Blocks, Data::TwiceBlocks)
        .reading()
        .writing()
        .fua(),
    rules(BAY_OP_COPY, "copy", Extent::TwoRanges, Data::None).reading().writing().fua(),
    rules(BAY_OP_WRITE_UNCORRECTABLE, "write_uncorrectable", Extent::Blocks, Data::None).writing(),
    rules(BAY_OP_SEEK_DATA, "seek_data", Extent::Block, Data::None).reading(),
    rules(BAY_OP_SEEK_HOLE, "seek_hole", Extent::Block, Data::None).reading(),
    rules(BAY_OP_ZONE_REPORT, "get_zone_info", Extent::Block, Data::Bytes).reading(),
    rules(BAY_OP_ZONE_MANAGE, "zone_management", Extent::Zone, Data::None).writing(),
    rules(BAY_OP_ZONE_APPEND, "zone_append", Extent::Zone, Data::Blocks).writing().fua(),
    rules(BAY_OP_NVME_ADMIN, "nvme_admin", Extent::Command, Data::Bytes).reading().writing(),
    rules(BAY_OP_NVME_IO, "nvme_io", Extent::Command, Data::Bytes).reading().writing(),
    rules(BAY_OP_RESERVATION_REGISTER, "reservation_register", Extent::None, Data::Bytes).writing(),
    rules(BAY_OP_RESERVATION_ACQUIRE, "reservation_acquire", Extent::None, Data::Bytes).writing(),
    rules(BAY_OP_RESERVATION_RELEASE, "reservation_release", Extent::None, Data::Bytes).writing(),
    rules(BAY_OP_RESERVATION_REPORT, "reservation_report", Extent::None, Data::Bytes).reading(),
];

/// Returns the rules of an op, or `None` for an unknown number.
#[inline]
#[must_use]
pub const fn op_rules(op: u16) -> Option<&'static OpRules> {
    const TABLE: &[OpRules] = &OP_TABLE;
    if op == 0 || op as usize > TABLE.len() {
        return None;
    }
    let (_, from) = TABLE.split_at(op as usize - 1);
    from.first()
}

/// The bits of `ops_mask` that belong to known ops.
pub const KNOWN_OPS: u64 = ((1 << OP_TABLE.len()) - 1) << 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_stands_at_its_number_and_nothing_else_is_one() {
        for (index, rules) in OP_TABLE.iter().enumerate() {
            assert_eq!(usize::from(rules.op), index + 1, "{}", rules.name);
            assert_eq!(op_rules(rules.op).unwrap().name, rules.name);
            assert_ne!(KNOWN_OPS & (1 << rules.op), 0);
        }
        assert!(op_rules(0).is_none());
        assert!(op_rules(u16::try_from(OP_TABLE.len() + 1).unwrap()).is_none());
        assert!(op_rules(u16::MAX).is_none());
        assert_eq!(KNOWN_OPS.count_ones() as usize, OP_TABLE.len());
    }
}
