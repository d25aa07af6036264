//! A histogram of latencies: log-linear, of fixed size, filled without allocation.

use std::cell::Cell;

/// How many bits of a value its bucket keeps: 64 buckets for each power of two, so a quantile is
/// off by at most 1.6 %.
const KEPT_BITS: u32 = 6;
const LINEAR: u64 = 1 << KEPT_BITS;
/// Larger values share the last bucket: 2^42 ticks are about half an hour.
const TOP_BITS: u32 = 42;
const BUCKETS: usize = ((TOP_BITS - KEPT_BITS + 1) as usize) << KEPT_BITS;

/// How often each latency occurred, in ticks of the machine's tick counter.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[Cell<u64>; BUCKETS]>,
    sum: Cell<u64>,
    max: Cell<u64>,
}

impl Histogram {
    /// Creates an empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buckets: Box::new([const { Cell::new(0) }; BUCKETS]),
            sum: Cell::new(0),
            max: Cell::new(0),
        }
    }

    /// Counts one value.
    pub fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(index_of(value)) {
            bucket.set(bucket.get() + 1);
        }
        self.sum.set(self.sum.get().wrapping_add(value));
        self.max.set(self.max.get().max(value));
    }

    /// Adds the values of `other`.
    pub fn add(&self, other: &Self) {
        for (mine, theirs) in self.buckets.iter().zip(other.buckets.iter()) {
            mine.set(mine.get() + theirs.get());
        }
        self.sum.set(self.sum.get().wrapping_add(other.sum.get()));
        self.max.set(self.max.get().max(other.max.get()));
    }

    /// Removes all values.
    pub fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.set(0));
        self.sum.set(0);
        self.max.set(0);
    }

    /// The number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Cell::get).sum()
    }

    /// The sum of the values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The largest value, exact; 0 when there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.get()
    }

    /// The value that `millionths` of all values do not exceed: 990,000 is the p99. 0 when there
    /// are no values.
    #[must_use]
    pub fn quantile(&self, millionths: u64) -> u64 {
        let count = u128::from(self.count());
        let rank = (count * u128::from(millionths)).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += u128::from(bucket.get());
            if seen >= rank {
                return last_of(index).min(self.max.get());
            }
        }
        self.max.get()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).finish_non_exhaustive()
    }
}

fn index_of(value: u64) -> usize {
    // Values below LINEAR are their own index. For larger ones, the highest bit, which is always
    // set, selects the next row.
    let shift = (LINEAR | value).ilog2() - KEPT_BITS;
    let index = (u64::from(shift) << KEPT_BITS) + (value >> shift);
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value that a bucket holds.
fn last_of(index: usize) -> u64 {
    let (row, kept) = (index as u64 >> KEPT_BITS, index as u64 & (LINEAR - 1));
    match row {
        0 => kept,
        _ => ((LINEAR + kept + 1) << (row - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_a_bucket_that_is_narrow_enough() {
        let mut before = None;
        for value in (0..5000).chain((13..42).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            let index = index_of(value);
            assert!(before <= Some(index), "buckets ascend with their values: {value}");
            before = Some(index);
            let last = last_of(index);
            assert!(last >= value && last - value <= value / 64, "{value} in {index} to {last}");
        }
        assert_eq!(index_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_stand_where_their_share_of_the_values_ends() {
        let histogram = Histogram::new();
        assert_eq!(histogram.quantile(500_000), 0);
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        let near = |value: u64, wanted: u64| value >= wanted && value - wanted <= wanted / 64;
        assert!(near(histogram.quantile(500_000), 500_000));
        assert!(near(histogram.quantile(990_000), 990_000));
        assert!(near(histogram.quantile(999_000), 999_000));
        assert_eq!(histogram.quantile(1_000_000), 1_000_000);
        assert_eq!((histogram.count(), histogram.sum()), (1000, 500_500_000));
    }

    #[test]
    fn added_histograms_count_both() {
        let (one, other) = (Histogram::new(), Histogram::new());
        one.record(7);
        other.record(9);
        one.add(&other);
        assert_eq!((one.count(), one.sum(), one.max(), one.quantile(500_000)), (2, 16, 9, 7));
        one.clear();
        assert_eq!((one.count(), one.max(), one.quantile(990_000)), (0, 0, 0));
    }
}
