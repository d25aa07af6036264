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

    /// Whether it holds the request to a bdev with zones of `zone_size` blocks back.
    pub(in crate::bdev) fn holds(self, request: &bay_io, zone_size: u64) -> bool {
        if request.op == BAY_OP_ABORT {
            return false;
        }
        let (lba, nblocks, [source, _]) = (request.lba, request.nblocks, request.arg);
        match op_rules(request.op).map_or(Extent::None, |rules| rules.extent) {
            Extent::None => self.nblocks == 0,
            Extent::Blocks => self.overlaps(lba, nblocks),
            Extent::TwoRanges => self.overlaps(lba, nblocks) || self.overlaps(source, nblocks),
            // A seek or a report of zones may concern any block from `lba` on.
            Extent::Block => self.overlaps(lba, u64::MAX),
            Extent::Zone => is_for_all_zones(request) || self.overlaps(lba, zone_size),
            Extent::Command => true,
        }
    }
}

fn is_for_all_zones(request: &bay_io) -> bool {
    let [action, _] = request.arg;
    request.op == BAY_OP_ZONE_MANAGE && action & BAY_ZONE_ALL != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_on_a_zone_is_held_when_the_range_touches_any_block_of_the_zone() {
        let range = Quiesced { lba: 20, nblocks: 2 };
        let holds = |op, lba, nblocks, action| {
            let request = bay_io { op, lba, nblocks, arg: [action, 0], ..bay_io::EMPTY };
            range.holds(&request, 8)
        };
        assert!(holds(BAY_OP_ZONE_APPEND, 16, 1, 0));
        assert!(!holds(BAY_OP_ZONE_APPEND, 8, 1, 0) && !holds(BAY_OP_ZONE_APPEND, 24, 1, 0));
        assert!(holds(BAY_OP_ZONE_MANAGE, 16, 0, BAY_ZONE_RESET));
        assert!(!holds(BAY_OP_ZONE_MANAGE, 0, 0, BAY_ZONE_RESET));
        assert!(holds(BAY_OP_ZONE_MANAGE, 0, 0, BAY_ZONE_RESET | BAY_ZONE_ALL));
        assert!(holds(BAY_OP_ZONE_REPORT, 0, 0, 1) && !holds(BAY_OP_ZONE_REPORT, 24, 0, 1));
    }
}
