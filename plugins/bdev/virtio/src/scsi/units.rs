//! The units of a SCSI host that are bdevs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drivebay_scsi::initiator::{Answer, Unit, probe};
use drivebay_sdk::prelude::*;
use drivebay_spec_scsi::CDB_LEN;

use super::Dialect;
use super::admin::Admin;

/// Longest list of units that is asked for, in bytes.
const LIST_LEN: u32 = 4096;

/// A unit that is a bdev.
#[derive(Clone, Debug)]
struct Known {
    unit: Unit,
    is_gone: Arc<AtomicBool>,
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
        let is_gone = match all.get(&target) {
            Some(known) if known.unit.is_same(&unit) => Arc::clone(&known.is_gone),
            _ => Arc::default(),
        };
        let block_size = unit.block_size;
        all.insert(target, Known { unit, is_gone: Arc::clone(&is_gone) });
        Dialect { target, block_size, is_gone }
    }

    /// Lets the I/O of a unit fail, if the target has another unit now.
    pub(crate) fn check(&self, target: u8, found: Option<&Unit>) {
        if let Some(known) = self.0.borrow().get(&target)
            && !found.is_some_and(|unit| unit.is_same(&known.unit))
        {
            known.is_gone.store(true, Ordering::Relaxed);
        }
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
            has_write_cache: false,
            is_read_only: false,
        }
    }

    #[test]
    fn a_unit_that_grows_keeps_its_io_and_another_unit_does_not_get_it() {
        let units = Units::default();
        let before = units.set(3, unit(1, 8));
        units.check(3, Some(&unit(1, 16)));
        assert!(!before.is_gone.load(Ordering::Relaxed));
        let after = units.set(3, unit(1, 16));
        assert!(Arc::ptr_eq(&before.is_gone, &after.is_gone));
        units.check(3, Some(&unit(2, 16)));
        assert!(before.is_gone.load(Ordering::Relaxed));
        let other = units.set(3, unit(2, 16));
        assert!(!other.is_gone.load(Ordering::Relaxed));
        units.check(3, None);
        assert!(other.is_gone.load(Ordering::Relaxed));
        assert_eq!(units.targets(), [3]);
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
