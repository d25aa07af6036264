//! The ranges of a bdev whose I/O is held back.

use drivebay_plugin_api::*;

/// A range of blocks whose I/O is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bdev) struct Quiesced {
    pub(in crate::bdev) lba: u64,
    /// 0 = the whole bdev, even after a resize.
    pub(in crate::bdev) nblocks: u64,
}

impl Quiesced {
    fn overlaps(self, lba: u64, nblocks: u64) -> bool {
        let (end, other_end) = (self.lba.saturating_add(self.nblocks), lba.saturating_add(nblocks));
        self.nblocks == 0 || (lba < end && self.lba < other_end)
    }

    /// Whether it holds the request back.
    pub(in crate::bdev) fn holds(self, request: &bay_io) -> bool {
        if request.op == BAY_OP_ABORT {
            return false;
        }
        let (lba, nblocks, [source, _]) = (request.lba, request.nblocks, request.arg);
        match op_rules(request.op).map_or(Extent::None, |rules| rules.extent) {
            Extent::None => self.nblocks == 0,
            Extent::Blocks => self.overlaps(lba, nblocks),
            Extent::TwoRanges => self.overlaps(lba, nblocks) || self.overlaps(source, nblocks),
            // A seek or a zone op may concern any block from `lba` on.
            Extent::Block => self.overlaps(lba, u64::MAX),
            Extent::Command => true,
        }
    }
}
