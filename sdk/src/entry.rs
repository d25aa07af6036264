//! The entry points from the host: no panic unwinds into the host, and after a panic the host cannot enter again.

use crate::log;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first caught panic. The author's state may then be inconsistent, so its code does not run again.
static POISONED: AtomicBool = AtomicBool::new(false);

/// Whether this library has caught a panic.
#[inline]
pub(crate) fn is_poisoned() -> bool {
    POISONED.load(Ordering::Relaxed)
}

/// Runs `body` for a call from the host. Returns `otherwise` when `body` panics or the library is poisoned.
///
/// A poisoned library leaks `body` and everything it has captured, because `Drop` would run the author's code.
#[inline]
pub(crate) fn enter<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    if is_poisoned() {
        leak(body);
        return otherwise;
    }
    guard(body).unwrap_or(otherwise)
}

/// As [`enter`], with a `token` that a caller waits for. A poisoned library drops the token, which answers the caller.
/// This is safe because the SDK implements the token's `Drop`.
#[inline]
pub(crate) fn enter_with<T>(token: T, body: impl FnOnce(T)) {
    if is_poisoned() {
        drop(token);
        leak(body);
        return;
    }
    guard(|| body(token));
}

/// Leaks a value: a poisoned library must not run the author's `Drop`.
#[cold]
pub(crate) fn leak<T>(value: T) {
    let _ = std::mem::ManuallyDrop::new(value);
}

/// Runs `body`. If it panics, marks the library as poisoned and returns `None`.
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
    // All tests share the library, so a panic in one test must not stop the others.
    #[cfg(any(test, feature = "testing"))]
    let is_real = !crate::testing::is_fake();
    #[cfg(not(any(test, feature = "testing")))]
    let is_real = true;
    if is_real && !POISONED.swap(true, Ordering::Relaxed) {
        log::poisoned();
    }
    // The payload is the author's type, so its `Drop` may panic as well.
    leak(panic);
}
