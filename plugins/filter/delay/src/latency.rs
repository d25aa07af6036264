//! How long an I/O is delayed.

use std::cell::Cell;

use drivebay_sdk::prelude::*;

params! {
    /// A point of a distribution.
    pub(crate) struct Percentile {
        /// Percentage of I/O that have at most this delay.
        #[range(1..=100)]
        pub(crate) percentile: u32,
        /// Delay, in microseconds.
        pub(crate) latency: u64,
    }
}

/// Maximum number of points of a distribution.
const POINTS_MAX: usize = 100;

/// Refuses percentiles that are out of order.
pub(crate) fn check(percentiles: &[Percentile]) -> Result<()> {
    let is_ascending =
        percentiles.is_sorted_by(|a, b| a.percentile < b.percentile && a.latency <= b.latency);
    if is_ascending && percentiles.len() <= POINTS_MAX {
        return Ok(());
    }
    let given = format!("{} points", percentiles.len());
    Err(Error::invalid(
        "percentiles",
        given,
        "at most 100 points, percentiles and latencies ascending",
    ))
}

/// Latency of one I/O, in microseconds.
pub(crate) fn draw(
    random: u64,
    average: u64,
    p99: u64,
    is_random: bool,
    percentiles: &[Percentile],
) -> u64 {
    let (percent, rest) = (random % 100, random / 100);
    if let Some(last) = percentiles.last() {
        let point = percentiles.iter().find(|point| u64::from(point.percentile) > percent);
        return point.unwrap_or(last).latency;
    }
    match percent {
        0 => p99,
        _ if is_random => rest % average.saturating_mul(2).saturating_add(1),
        _ => average,
    }
}

/// The next number of a xorshift generator (Marsaglia, "Xorshift RNGs"), whose state is never 0.
pub(crate) fn next(state: &Cell<u64>) -> u64 {
    let mut x = state.get();
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state.set(x);
    x
}
