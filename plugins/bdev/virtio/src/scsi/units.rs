//! The units of a SCSI host that are bdevs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use drivebay_scsi::initiator::{Answer, Unit, probe};
use drivebay_sdk::prelude::*;
use drivebay_spec_scsi::CDB_LEN;

use super::Dialect;
use super::admin::Admin;

/// Longest list of units that is asked for, in bytes.
const LIST_LEN: u32 = 4096;

/// Whether a target still has the unit of a bdev. A channel reports that it may not, and then the app thread asks the target.
#[derive(Debug, Default)]
pub(crate) struct Standing(AtomicU8);

impl Standing {
    /// The target has the unit.
    const CLEAR: u8 = 0;
    /// The target has reported that it may have another unit. I/O waits.
    const DOUBTFUL: u8 = 1;
    /// The controller asks the target which unit it has. I/O waits.
    const ASKED: u8 = 2;
    /// The target does not have the unit any more. I/O fails, and this state stays.
    const GONE: u8 = 3;

    /// Whether I/O need not wait.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self.0.load(Ordering::Acquire), Self::CLEAR | Self::GONE)
    }

    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::GONE
    }

    /// Notes that the target may have another unit. This counts while the controller asks, too, because the answer may be too old.
    pub(crate) fn doubt(&self) {
        if !self.change(Self::CLEAR, Self::DOUBTFUL) {
            self.change(Self::ASKED, Self::DOUBTFUL);
        }
    }

    /// Notes whether the target has the unit. Returns whether I/O waited for that.
    fn settle(&self, is_same: bool) -> bool {
        if is_same {
            return self.change(Self::ASKED, Self::CLEAR);
        }
        let before = self.0.swap(Self::GONE, Ordering::AcqRel);
        before == Self::DOUBTFUL || before == Self::ASKED
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A unit that is a bdev.
#[derive(Clone, Debug)]
struct Known {
    unit: Unit,
    standing: Arc<Standing>,
}

/// The units, by target. Only unit 0 of a target becomes a bdev, as in the reference.
#[derive(Debug, Default)]
pub(crate) struct Units(RefCell<BTreeMap<u8, Known>>);

impl Units {
    pub(crate) fn targets(&self) -> Vec<u8> {
        self.0.borrow().keys().copied().collect()
    }

    pub(crate) fn get(&self, target: u8) -> Option<Unit> {
        self.0.borrow().get(&target).map(|known| known.unit.clone())
    }

    /// Adds a unit, or notes its new size. Returns how I/O becomes its commands.
    pub(crate) fn set(&self, target: u8, unit: Unit) -> Dialect {
        let mut all = self.0.borrow_mut();
        let standing = match all.get(&target) {
            Some(known) if known.unit.is_same(&unit) => Arc::clone(&known.standing),
            _ => Arc::default(),
        };
        let block_size = unit.block_size;
        all.insert(target, Known { unit, standing: Arc::clone(&standing) });
        Dialect { target, block_size, standing }
    }

    /// Whether I/O of a unit waits because the unit is doubtful.
    pub(crate) fn has_doubts(&self) -> bool {
        self.0.borrow().values().any(|known| !known.standing.is_clear())
    }

    /// The next target to ask which unit it has. After the question, call [`check`](Self::check) with the answer.
    pub(crate) fn next_doubtful(&self) -> Option<u8> {
        let all = self.0.borrow();
        let (target, known) = all.iter().find(|(_, known)| !known.standing.is_clear())?;
        known.standing.change(Standing::DOUBTFUL, Standing::ASKED);
        Some(*target)
    }

    /// Lets the I/O of a unit fail, if the target has another unit now. Otherwise clears a doubt about it. Returns whether I/O waited
    /// for that.
    pub(crate) fn check(&self, target: u8, found: Option<&Unit>) -> bool {
        let all = self.0.borrow();
        let Some(known) = all.get(&target) else { return false };
        known.standing.settle(found.is_some_and(|unit| unit.is_same(&known.unit)))
    }

    pub(crate) fn remove(&self, target: u8) {
        self.0.borrow_mut().remove(&target);
    }
}

/// Asks for unit 0 of a target. `None` when there is none that can be a bdev.
///
/// # Errors
/// When the device does not answer.
pub(crate) async fn find(admin: &Admin, target: u8) -> Result<Option<Unit>> {
    let found = async {
        if !has_unit(&report_luns(admin, target).await?) {
            return Err(Error::no_such_device());
        }
        probe(async |cdb, len| admin.execute(target, cdb, len).await).await
    };
    match found.await {
        Ok(unit) => Ok(Some(unit)),
        Err(error) if error.errno() == errno::ENODEV => Ok(None),
        Err(error) if [errno::EINVAL, errno::EOPNOTSUPP, errno::EBUSY].contains(&error.errno()) => {
            warn!("target {target} does not become a bdev: {}", error.message());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn report_luns(admin: &Admin, target: u8) -> Result<Answer> {
    let mut cdb = [0; CDB_LEN];
    let [a, b, c, d] = LIST_LEN.to_be_bytes();
    (cdb[0], cdb[6], cdb[7], cdb[8], cdb[9]) = (0xa0, a, b, c, d);
    admin.execute(target, cdb, LIST_LEN).await
}

/// Whether a target has unit 0. If it does not answer REPORT LUNS, other commands tell.
fn has_unit(answer: &Answer) -> bool {
    let list = answer.data.get(8..).unwrap_or_default();
    answer.status != 0 || list.chunks_exact(8).any(|lun| lun == [0; 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(identity: u8, num_blocks: u64) -> Unit {
        Unit {
            identity: vec![1, 3, 0, 1, identity],
            num_blocks,
            block_size: 512,
            transfer_max: 0,
            unmap_max: 0,
            reads_zeroes: false,
            has_write_cache: false,
            is_read_only: false,
        }
    }

    #[test]
    fn a_unit_that_grows_keeps_its_io_and_another_unit_does_not_get_it() {
        let units = Units::default();
        let before = units.set(3, unit(1, 8));
        units.check(3, Some(&unit(1, 16)));
        assert!(!before.standing.is_gone());
        let after = units.set(3, unit(1, 16));
        assert!(Arc::ptr_eq(&before.standing, &after.standing));
        units.check(3, Some(&unit(2, 16)));
        assert!(before.standing.is_gone());
        let other = units.set(3, unit(2, 16));
        assert!(!other.standing.is_gone());
        units.check(3, None);
        assert!(other.standing.is_gone());
        assert_eq!(units.targets(), [3]);
    }

    #[test]
    fn io_of_a_doubtful_unit_waits_for_an_answer_that_is_newer_than_the_doubt() {
        let units = Units::default();
        let standing = units.set(3, unit(1, 8)).standing;
        assert_eq!((units.has_doubts(), units.next_doubtful()), (false, None));
        standing.doubt();
        assert!(!units.check(3, Some(&unit(1, 8))), "this question is older than the doubt");
        assert_eq!((units.has_doubts(), units.next_doubtful()), (true, Some(3)));
        standing.doubt();
        assert!(!units.check(3, Some(&unit(1, 8))), "the unit became doubtful again");
        assert_eq!(units.next_doubtful(), Some(3));
        assert!(units.check(3, Some(&unit(1, 8))));
        assert!(standing.is_clear() && !standing.is_gone());
        standing.doubt();
        assert!(units.check(3, Some(&unit(2, 8))));
        standing.doubt();
        assert!(standing.is_clear() && standing.is_gone(), "it stays gone");
        assert_eq!(units.next_doubtful(), None);
    }

    #[test]
    fn only_targets_with_unit_0_are_asked_further() {
        let list = |luns: &[u64]| Answer {
            data: [vec![0; 8], luns.iter().flat_map(|lun| lun.to_be_bytes()).collect()].concat(),
            ..Answer::default()
        };
        assert!(has_unit(&list(&[1 << 48, 0])));
        assert!(!has_unit(&list(&[1 << 48])));
        assert!(!has_unit(&list(&[])));
        assert!(
            has_unit(&Answer { status: 2, ..Answer::default() }),
            "it may not know the command"
        );
    }
}
