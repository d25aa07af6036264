//! Where the host enters the library: nothing unwinds out, and nothing enters after a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first caught panic: the author's state may be broken, so it is not entered again.
static POISONED: AtomicBool = AtomicBool::new(false);

/// Whether a panic was caught in this library.
#[inline]
pub(crate) fn is_poisoned() -> bool {
    POISONED.load(Ordering::Relaxed)
}

/// Runs `body`, an entry from the host; gives `otherwise` when it panics or the library is poisoned.
#[inline]
pub(crate) fn enter<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    if is_poisoned() { otherwise } else { guard(body).unwrap_or(otherwise) }
}

/// Runs `body`; `None` when it panicked, after which the library is poisoned.
#[inline]
pub(crate) fn guard<R>(body: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Some(result),
        Err(panic) => {
            poison(panic);
            None
        }
    }
}

#[cold]
fn poison(panic: Box<dyn std::any::Any + Send>) {
    // Tests share the library: a panic in one is not to end the others.
    #[cfg(any(test, feature = "testing"))]
    let is_real = !crate::testing::is_fake();
    #[cfg(not(any(test, feature = "testing")))]
    let is_real = true;
    POISONED.store(is_real, Ordering::Relaxed);
    // A payload may panic when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
}
