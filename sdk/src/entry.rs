//! Where the host enters the library: nothing unwinds out, and nothing enters after a panic.

use crate::log;
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
///
/// In a poisoned library `body` leaks with all that it has captured, whose `Drop` is the author's code.
#[inline]
pub(crate) fn enter<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    if is_poisoned() {
        leak(body);
        return otherwise;
    }
    guard(body).unwrap_or(otherwise)
}

/// As [`enter`], with a `token` that a caller waits for. A poisoned library drops the token, which answers the caller.
/// The token's `Drop` is the SDK's code.
#[inline]
pub(crate) fn enter_with<T>(token: T, body: impl FnOnce(T)) {
    if is_poisoned() {
        drop(token);
        leak(body);
        return;
    }
    guard(|| body(token));
}

/// Leaks a value, because a poisoned library must not run the author's `Drop`.
#[cold]
pub(crate) fn leak<T>(value: T) {
    let _ = std::mem::ManuallyDrop::new(value);
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
    if is_real && !POISONED.swap(true, Ordering::Relaxed) {
        log::poisoned();
    }
    // The payload is the author's, so its `Drop` may panic, too.
    leak(panic);
}
