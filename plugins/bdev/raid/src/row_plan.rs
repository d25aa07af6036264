//! How an I/O to a row gets the strips that it needs.

use crate::bases::Bases;
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::MemberSet;

/// The plan of a row I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Number of the row.
    pub(crate) number: u64,
    /// First block in the strips, and number of blocks of each strip.
    pub(crate) first: u64,
    pub(crate) nblocks: u64,
    pub(crate) work: Work,
    /// Slots whose strips to read.
    pub(crate) reads: MemberSet,
}

/// How the array gets the parity of a write, or the data of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// Read-modify-write: the difference of old and new data changes the old parity.
    Modify,
    /// Reconstruct-write: the parity is computed from all data of the row.
    Reconstruct,
    /// The missing data are computed from the rest of the row. A write then goes on as [`Reconstruct`](Self::Reconstruct).
    #[default]
    Recover,
}

impl Plan {
    /// A plan for blocks of one row. The old parity of a row that is not `is_synced` may be wrong. The members of
    /// `avoid` could not read their strips.
    ///
    /// # Errors
    /// `EINVAL` for blocks of several rows; `EIO` if too many strips are missing.
    pub(crate) fn new(
        bases: &Bases,
        range: Range,
        is_write: bool,
        is_synced: bool,
        avoid: MemberSet,
    ) -> Result<Self, Status> {
        let layout = &*bases.layout;
        if !layout.is_in_one_row(range.lba, range.nblocks) {
            return Err(Status::INVALID);
        }
        let (number, first_strip, offset) = layout.row_of(range.lba);
        let (_, last_strip, last) = layout.row_of(range.lba + range.nblocks.saturating_sub(1));
        let (first, nblocks) = if first_strip == last_strip {
            (offset, range.nblocks)
        } else {
            (0, layout.strip_blocks())
        };
        let row = layout.row(number);
        let can_read = |slot: u8| bases.readable(slot).is_some() && !avoid.contains(slot);
        let is_touched = |strip: u8| (first_strip..=last_strip).contains(&strip);
        let is_covered = |strip: u8| {
            let begins = strip > first_strip || offset == first;
            let ends = strip < last_strip || last + 1 == first + nblocks;
            is_touched(strip) && begins && ends
        };
        let set = |wanted: &dyn Fn(u8) -> bool| {
            let mut set = MemberSet::default();
            let strips = (0..row.data_strips()).filter(|strip| wanted(*strip));
            strips.for_each(|strip| set.insert(row.data(strip)));
            set
        };
        let plan = |work, reads| Self { number, first, nblocks, work, reads };
        let mut touched = set(&is_touched);
        let rest = set(&|strip| !is_covered(strip));
        // A parity that the array is rebuilding cannot be modified, but it must be written.
        let parities = || row.parities().filter(|slot| bases.get(*slot).is_some());
        let can_modify = touched.iter().chain(parities()).all(can_read);
        let can_reconstruct = rest.iter().all(can_read);
        let reads_to_modify = touched.iter().count() + parities().count();
        let is_shorter = is_synced && reads_to_modify <= rest.iter().count();
        // Two parities that are wrong and were modified would not agree on the new data if its member leaves, too.
        let can_stay_wrong = is_synced || layout.level().parities() == 1;
        if is_write && can_modify && (is_shorter || !can_reconstruct && can_stay_wrong) {
            parities().for_each(|slot| touched.insert(slot));
            return Ok(plan(Work::Modify, touched));
        }
        if is_write && can_reconstruct {
            return Ok(plan(Work::Reconstruct, rest));
        }
        let missing = set(&|strip| !can_read(row.data(strip))).iter().count();
        let mut reads = set(&|strip| can_read(row.data(strip)));
        let readable = || row.parities().filter(|slot| can_read(*slot));
        if readable().count() < missing {
            return Err(Status::IO_ERROR);
        }
        readable().take(missing).for_each(|slot| reads.insert(slot));
        Ok(plan(Work::Recover, reads))
    }
}
