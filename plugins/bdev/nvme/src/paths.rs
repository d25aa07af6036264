//! The paths to one bdev, and how its I/O is spread over them: what the channels of all threads know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;

use crate::options::{MultipathOptions, Policy, Selector};
use crate::path::Path;
use crate::stats::PathStats;

/// Maximum number of paths to one bdev.
pub(crate) const PATHS_MAX: usize = 16;

/// How I/O is spread over paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) policy: Policy,
    pub(crate) selector: Selector,
    /// How many I/Os one path gets in its turn.
    pub(crate) min_io: u32,
    /// Whether I/O stays on its path when a path that comes before it returns.
    pub(crate) stays: bool,
}

impl Spread {
    pub(crate) fn new(options: &MultipathOptions, stays: bool) -> Self {
        let MultipathOptions { policy, selector, min_io } = *options;
        Self { policy, selector, min_io, stays }
    }
}

/// The paths of a bdev, in order: I/O prefers the first of the best ones.
#[derive(Debug)]
pub(crate) struct Paths {
    listed: Mutex<Listed>,
    /// Counters of I/O for each path; `None` unless the option `io_path_stat` is set.
    pub(crate) stats: PathStats,
    /// Counts the changes of `listed`.
    version: AtomicU64,
    changed: Notify,
}

#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) paths: Vec<Arc<Path>>,
    pub(crate) spread: Spread,
}

impl Paths {
    pub(crate) fn new(first: Arc<Path>, spread: Spread) -> Arc<Self> {
        let listed = Mutex::new(Listed { paths: vec![first], spread });
        Arc::new(Self {
            listed,
            stats: PathStats::default(),
            version: AtomicU64::new(1),
            changed: Notify::new(),
        })
    }

    /// The version number, the paths, and how I/O is spread over them. `[any thread]`
    pub(crate) fn listed(&self) -> (u64, Listed) {
        let listed = self.lock();
        (self.version.load(Ordering::Acquire), listed.clone())
    }

    /// Waits until the version is no longer this one. `[any lightweight thread]`
    pub(crate) async fn changed_from(&self, version: u64) {
        self.changed.until(|| self.version.load(Ordering::Acquire) != version).await;
    }

    /// Adds a path, unless it is there already. `[app thread]`
    ///
    /// # Errors
    /// `ENOSPC` when the bdev has as many paths as it may have.
    pub(crate) fn add(&self, path: &Arc<Path>) -> Result<()> {
        if self.has(path) {
            return Ok(());
        }
        if self.lock().paths.len() >= PATHS_MAX {
            let why = format!("a bdev has at most {PATHS_MAX} paths");
            return Err(Error::new(errno::ENOSPC, why));
        }
        self.change(|listed| listed.paths.push(Arc::clone(path)));
        Ok(())
    }

    /// Removes a path. `[app thread]`
    pub(crate) fn remove(&self, path: &Arc<Path>) {
        if self.has(path) {
            self.change(|listed| listed.paths.retain(|other| !Arc::ptr_eq(other, path)));
            self.stats.forget(path);
        }
    }

    /// Puts a path first. `[app thread]`
    pub(crate) fn prefer(&self, path: &Arc<Path>) {
        self.change(|listed| listed.paths.sort_by_key(|other| !Arc::ptr_eq(other, path)));
    }

    /// Changes how I/O is spread. `[app thread]`
    pub(crate) fn set_spread(&self, spread: Spread) {
        self.change(|listed| listed.spread = spread);
    }

    pub(crate) fn has(&self, path: &Arc<Path>) -> bool {
        self.lock().paths.iter().any(|other| Arc::ptr_eq(other, path))
    }

    fn change(&self, change: impl FnOnce(&mut Listed)) {
        let mut listed = self.lock();
        change(&mut listed);
        self.version.fetch_add(1, Ordering::Release);
        drop(listed);
        self.changed.notify();
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
