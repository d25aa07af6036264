//! The report of a run.

use serde_json::json;
use std::time::Duration;

/// Latencies, sorted.
pub(crate) struct Report {
    latencies_ns: Vec<u32>,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(mut latencies_ns: Vec<u32>, elapsed: Duration) -> Self {
        latencies_ns.sort_unstable();
        Self { latencies_ns, elapsed }
    }

    /// The latency, in microseconds, that `thousandths` of 1,000 I/Os do not exceed.
    fn quantile_us(&self, thousandths: usize) -> f64 {
        let rank = (self.latencies_ns.len() * thousandths).div_ceil(1000);
        let ns = self.latencies_ns.get(rank.saturating_sub(1)).copied();
        f64::from(ns.unwrap_or_default()) / 1000.0
    }

    pub(crate) fn json(&self) -> String {
        let ios = self.latencies_ns.len();
        let sum: f64 = self.latencies_ns.iter().copied().map(f64::from).sum();
        let seconds = self.elapsed.as_secs_f64();
        json!({
            "ios": ios,
            "seconds": seconds,
            "iops": ios as f64 / seconds,
            "latency_us": {
                "mean": sum / 1000.0 / (ios.max(1) as f64),
                "p50": self.quantile_us(500),
                "p99": self.quantile_us(990),
                "p99_9": self.quantile_us(999),
                "max": self.quantile_us(1000),
            },
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_latency_that_was_met() {
        let report = Report::new((1..=1000).rev().map(|us| us * 1000).collect(), Duration::ZERO);
        let at = |thousandths| report.quantile_us(thousandths);
        assert_eq!((at(500), at(990), at(999), at(1000)), (500.0, 990.0, 999.0, 1000.0));
        assert_eq!(Report::new(Vec::new(), Duration::ZERO).quantile_us(990), 0.0);
    }
}
