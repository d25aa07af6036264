//! What each lightweight thread calls now. The watchdog reads it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a lightweight thread calls now. Only its reactor writes it.
#[derive(Debug, Default)]
pub(super) struct Doing {
    function: AtomicUsize,
    poller: AtomicU64,
}

impl Doing {
    #[inline]
    pub(super) fn begin(&self, function: usize, poller: u64) {
        self.poller.store(poller, Ordering::Relaxed);
        self.function.store(function, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn end(&self) {
        self.function.store(0, Ordering::Relaxed);
    }

    /// The address of the function; 0 = none.
    pub(super) fn function(&self) -> usize {
        self.function.load(Ordering::Relaxed)
    }

    /// The handle of the poller; 0 = a message.
    pub(super) fn poller(&self) -> u64 {
        self.poller.load(Ordering::Relaxed)
    }
}

/// The names of pollers, by thread and handle.
static POLLERS: Mutex<BTreeMap<(u64, u64), String>> = Mutex::new(BTreeMap::new());

fn pollers() -> MutexGuard<'static, BTreeMap<(u64, u64), String>> {
    POLLERS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn poller_added(thread: u64, poller: u64, name: &str) {
    pollers().insert((thread, poller), name.to_owned());
}

pub(super) fn poller_removed(thread: u64, poller: u64) {
    pollers().remove(&(thread, poller));
}

/// The name of a poller; `None` when the thread has no poller with this handle.
pub(super) fn poller_name(thread: u64, poller: u64) -> Option<String> {
    pollers().get(&(thread, poller)).cloned()
}
