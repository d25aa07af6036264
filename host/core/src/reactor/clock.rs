//! The host's clock: nanoseconds of the monotonic clock since the process began, read once a round.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Reads the clock anew. Never 0.
#[must_use]
pub fn precise_now() -> u64 {
    u64::try_from(origin().elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Reads the clock anew and keeps the value for this round.
pub(crate) fn refresh() -> u64 {
    let now = precise_now();
    NOW.set(now);
    now
}

/// Sets the value of the rounds that this OS thread runs: virtual time.
pub(super) fn set(now: u64) {
    NOW.set(now.max(1));
}

/// The value of this round on a reactor, else the clock.
#[must_use]
pub fn now() -> u64 {
    match NOW.get() {
        0 => precise_now(),
        now => now,
    }
}

/// The value of this round; 0 when not on a reactor, where there is no data path.
#[inline]
pub(crate) fn of_round() -> u64 {
    NOW.get()
}
