//! Latencies in buckets: 64 for each power of two, so that a percentile is off by 1.6 % at most.

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// Latencies of I/Os, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; bucket(u64::MAX) + 1], count: 0, sum: 0, max: 0 }
    }

    pub(crate) fn add(&mut self, ns: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket(ns)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += ns;
        self.max = self.max.max(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean_ns(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    pub(crate) fn max_ns(&self) -> u64 {
        self.max
    }

    /// The latency that `per_mille` of 1000 I/Os do not exceed.
    pub(crate) fn percentile_ns(&self, per_mille: u64) -> u64 {
        let wanted = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(index as u64).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(ns: u64) -> usize {
    let bits = (u64::BITS - ns.leading_zeros()).saturating_sub(SUB_BITS + 1);
    usize::try_from(u64::from(bits) * SUB + (ns >> bits)).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn highest(bucket: u64) -> u64 {
    let bits = (bucket / SUB).saturating_sub(1);
    let mantissa = u128::from(bucket - bits * SUB);
    u64::try_from(((mantissa + 1) << bits) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_two_percent() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) + (1 << shift) / 3, (1 << shift) - 1] {
                let top = highest(bucket(value) as u64);
                assert!(top >= value && u128::from(top) <= u128::from(value) * 65 / 64, "{value} {top}");
            }
        }
    }

    #[test]
    fn percentiles_count_from_below() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|ns| latencies.add(ns * 1000));
        let off = |found: u64, right: u64| found >= right && found <= right * 65 / 64;
        assert!(off(latencies.percentile_ns(500), 500_000));
        assert!(off(latencies.percentile_ns(999), 999_000));
        assert_eq!(latencies.percentile_ns(1000), 1_000_000);
        assert_eq!((latencies.count(), latencies.mean_ns()), (1000, 500_500));
    }
}
