//! Limits log lines that a peer can cause.

use crate::thread;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of lines of one kind per second.
const LINES_PER_SECOND: u64 = 10;

/// Admits a few lines of one kind per second and counts the others. Keep a `static` next to each log line.
#[derive(Debug, Default)]
pub struct Throttle {
    /// The second, on the host's clock, in which a line last arrived.
    second: AtomicU64,
    /// Number of lines in that second.
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl Throttle {
    /// Creates a throttle that has admitted no line yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { second: AtomicU64::new(0), lines: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// If the line may be written, returns how many lines were left out since the last one. `[any thread of the host]`
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(thread::now_ns())
    }

    /// When several threads call it at the same time, it may admit a line more or less. That is accurate enough.
    fn admit_at(&self, now_ns: u64) -> Option<u64> {
        let second = now_ns / 1_000_000_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_a_second_are_written_and_the_rest_is_counted() {
        let throttle = Throttle::new();
        let now_ns = 5_000_000_000;
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(throttle.admit_at(now_ns), Some(0));
        }
        assert_eq!([throttle.admit_at(now_ns), throttle.admit_at(now_ns + 1)], [None, None]);
        assert_eq!(throttle.admit_at(now_ns + 1_000_000_000), Some(2));
        assert_eq!(throttle.admit_at(now_ns + 1_000_000_001), Some(0));
    }
}
