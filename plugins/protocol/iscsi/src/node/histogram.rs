//! A histogram of command latencies with the reference's buckets: log-linear, 128 for each doubling.

use std::time::Duration;

/// A range has 2 to the power of this number of buckets.
pub const GRANULARITY: u32 = 7;
/// The last range, whose values have 64 bits.
pub const MAX_RANGE: u32 = 64 - GRANULARITY;
/// The unit of the values: nanoseconds.
pub const TICKS_HZ: u64 = 1_000_000_000;

const PER_RANGE: usize = 1 << GRANULARITY;
const BUCKETS: usize = PER_RANGE * (MAX_RANGE as usize + 1);

/// The number of commands in each bucket.
#[derive(Clone, Debug)]
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Histogram {
    /// Counts a command.
    pub fn add(&mut self, latency: Duration) {
        let value = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get_mut(bucket_of(value)) {
            *count += 1;
        }
    }

    /// The counts, each as 8 little-endian bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|count| count.to_le_bytes()).collect()
    }
}

/// The bucket of a value. Ranges 0 and 1 have one bucket for each value. The buckets of each further range are twice as wide.
fn bucket_of(value: u64) -> usize {
    let range = (64 - GRANULARITY).saturating_sub(value.leading_zeros());
    let in_range = value >> range.saturating_sub(1) & (PER_RANGE as u64 - 1);
    range as usize * PER_RANGE + usize::try_from(in_range).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_one_value_first_and_then_ever_more() {
        for (value, bucket) in [
            (0, 0),
            (127, 127),
            (128, 128),
            (255, 255),
            (256, 256),
            (257, 256),
            (511, 383),
            (512, 384),
            (u64::MAX, BUCKETS - 1),
        ] {
            assert_eq!(bucket_of(value), bucket, "{value}");
        }
    }
}
