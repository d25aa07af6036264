//! The plugins that have failed: they panicked, and the host makes no further call into them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The owners that failed, each with whether the bus may complete the I/O that was at its modules.
static FAILED: Mutex<BTreeMap<usize, bool>> = Mutex::new(BTreeMap::new());

fn failed<T>(f: impl FnOnce(&mut BTreeMap<usize, bool>) -> T) -> T {
    f(&mut FAILED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Records that the plugin with the host table `owner` has failed.
pub(in crate::bdev) fn record(owner: usize, marks_held: bool) {
    failed(|failed| failed.insert(owner, marks_held));
}

/// Whether the plugin with this host table has failed.
pub(in crate::bdev) fn has_failed(owner: usize) -> bool {
    failed(|failed| failed.contains_key(&owner))
}

/// Whether the bus may complete the I/O that is at the modules of a failed plugin.
pub(in crate::bdev) fn may_end_requests(owner: usize) -> bool {
    failed(|failed| failed.get(&owner).copied()).unwrap_or(false)
}
