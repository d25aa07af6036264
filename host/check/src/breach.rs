//! The rules of the ABI that the plugin broke, as seen by the guard. Any thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The maximum number of different breaches that are kept.
const KEPT_MAX: usize = 32;

static SEEN: Mutex<Vec<Breach>> = Mutex::new(Vec::new());

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The rule of the ABI.
    pub rule: &'static str,
    /// What the plugin did.
    pub seen: String,
    /// How often it did this.
    pub times: u64,
}

/// Records that a rule was broken.
pub fn record(rule: &'static str, seen: impl Into<String>) {
    let (mut all, seen) = (lock(), seen.into());
    let same = all.iter_mut().find(|breach| breach.rule == rule && breach.seen == seen);
    if let Some(breach) = same {
        breach.times += 1;
    } else if all.len() < KEPT_MAX {
        all.push(Breach { rule, seen, times: 1 });
    }
}

/// Removes and returns all recorded breaches.
#[must_use]
pub fn take() -> Vec<Breach> {
    std::mem::take(&mut lock())
}

fn lock() -> MutexGuard<'static, Vec<Breach>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}
