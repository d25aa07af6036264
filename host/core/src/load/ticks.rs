//! The machine's tick counter: the cheapest clock. Its unit is unknown until it is compared with
//! another clock.
#![expect(unsafe_code, reason = "the counter is read by an intrinsic")]

use std::time::Instant;

/// Reads the counter. Only differences of two values have a meaning.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::inline_always, reason = "one instruction, twice per I/O")]
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: every x86-64 processor has this instruction, and the kernel lets user code execute
    // it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Reads the counter. Only differences of two values have a meaning.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn now() -> u64 {
    crate::reactor::clock::precise_now()
}

/// Measures the length of a tick, from `begin` to [`Calibration::ns_per_tick`].
#[derive(Debug)]
pub(super) struct Calibration {
    began: Instant,
    tick: u64,
}

impl Calibration {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), tick: now() }
    }

    pub(super) fn ns_per_tick(&self) -> f64 {
        let ticks = now().saturating_sub(self.tick).max(1);
        self.began.elapsed().as_secs_f64() * 1e9 / ticks as f64
    }
}
