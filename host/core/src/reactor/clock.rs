//! The host's clock: nanoseconds on the monotonic clock since the process started, read once in
//! each round.

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

/// Reads the clock. Never 0.
#[must_use]
pub fn precise_now() -> u64 {
    u64::try_from(origin().elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Reads the clock and keeps the value for this round.
pub(crate) fn refresh() -> u64 {
    let now = precise_now();
    NOW.set(now);
    now
}

/// Sets the clock of the rounds that this OS thread runs, for virtual time.
pub(super) fn set(now: u64) {
    NOW.set(now.max(1));
}

/// The clock of this round on a reactor; elsewhere reads the clock.
#[must_use]
pub fn now() -> u64 {
    match NOW.get() {
        0 => precise_now(),
        now => now,
    }
}

/// The clock of this round; 0 outside of a reactor, where there is no data path.
#[inline]
pub(crate) fn of_round() -> u64 {
    NOW.get()
}
