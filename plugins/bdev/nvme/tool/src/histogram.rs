//! Times in buckets that are a sixteenth of their power of two wide, so that a run of any length needs the same memory.

/// Buckets of one power of two.
const PARTS: u32 = 16;
const BUCKETS: usize = 64 * PARTS as usize;

/// The number of times that each latency occurred, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean_us(&self) -> f64 {
        self.sum_ns as f64 / 1000.0 / self.count.max(1) as f64
    }

    pub(crate) fn max_us(&self) -> f64 {
        self.max_ns as f64 / 1000.0
    }

    /// The time that `millionths` of all times do not exceed, rounded up to the end of its bucket, in microseconds.
    pub(crate) fn at_us(&self, millionths: u64) -> f64 {
        let rank = self.count.saturating_mul(millionths).div_ceil(1_000_000);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return (upper_ns(index) as f64 / 1000.0).min(self.max_us());
            }
        }
        self.max_us()
    }
}

fn bucket(ns: u64) -> usize {
    let power = 63 - (ns | 1).leading_zeros();
    if power < 4 {
        return usize::try_from(ns).unwrap_or(0);
    }
    let part = (ns >> (power - 4)) & u64::from(PARTS - 1);
    ((power - 3) * PARTS) as usize + usize::try_from(part).unwrap_or(0)
}

/// The largest time of a bucket.
fn upper_ns(bucket: usize) -> u64 {
    let (power, part) = (bucket as u64 / u64::from(PARTS), bucket as u64 % u64::from(PARTS));
    if power == 0 {
        return part;
    }
    let width = 1u64.checked_shl(u32::try_from(power - 1).unwrap_or(63)).unwrap_or(u64::MAX);
    (u64::from(PARTS) + part + 1).saturating_mul(width) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_its_bucket_which_is_at_most_a_sixteenth_too_long() {
        for ns in [0, 1, 15, 16, 17, 1000, 123_456, 10_000_000_000, u64::MAX >> 1] {
            let upper = upper_ns(bucket(ns));
            assert!(upper >= ns && upper - ns <= ns / 16, "{ns}: {upper}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn the_median_of_times_is_near_the_middle() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.add(us * 1000));
        assert!((500.0..540.0).contains(&histogram.at_us(500_000)), "{}", histogram.at_us(500_000));
        assert_eq!((histogram.at_us(1_000_000), histogram.mean_us()), (1000.0, 500.5));
    }
}
