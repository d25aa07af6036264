//! The machine's tick counter: the cheapest clock, without a unit until it is compared with another.
#![expect(unsafe_code, reason = "the counter is read by an intrinsic")]

use std::time::Instant;

/// The counter now. It only means something in differences.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::inline_always, reason = "one instruction, twice per I/O")]
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and the kernel leaves it to users.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The counter now. It only means something in differences.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn now() -> u64 {
    crate::reactor::clock::precise_now()
}

/// Finds out how long a tick is: from its making to [`Calibration::ns_per_tick`].
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
