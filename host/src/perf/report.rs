//! The report of a measurement, as text and as JSON.

use crate::cli::Perf;
use clap::ValueEnum;
use drivebay_core::load::{Failure, Histogram, Report, Results};
use serde_json::{Value, json};
use std::fmt::Write;

/// One line of the report. Latencies are in microseconds.
#[derive(Debug, Default)]
struct Row {
    bdev: String,
    core: Option<usize>,
    iops: f64,
    mib_per_s: f64,
    mean_us: f64,
    /// p50, p99, p99.9 and the longest latency.
    at_us: [f64; 4],
}

const QUANTILES: [u64; 3] = [500_000, 990_000, 999_000];

impl Row {
    fn latencies(mut self, latency: &Histogram, ns_per_tick: f64) -> Self {
        let us = |ticks: u64| ticks as f64 * ns_per_tick / 1000.0;
        if latency.count() > 0 {
            self.mean_us = us(latency.sum()) / latency.count() as f64;
        }
        let [p50, p99, p999] = QUANTILES.map(|millionths| us(latency.quantile(millionths)));
        self.at_us = [p50, p99, p999, us(latency.max())];
        self
    }

    fn latencies_json(&self) -> Value {
        let [p50, p99, p999, max] = self.at_us;
        json!({"mean": self.mean_us, "p50": p50, "p99": p99, "p99_9": p999, "max": max})
    }
}

fn row(report: &Report, results: &Results) -> Row {
    let seconds = report.elapsed.as_secs_f64();
    let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let row = Row {
        bdev: report.bdev.clone(),
        core: Some(report.core),
        iops: rate(report.reads + report.writes),
        mib_per_s: rate(report.bytes) / f64::from(1 << 20),
        ..Row::default()
    };
    row.latencies(&report.latency, results.ns_per_tick)
}

/// The sum of all lines. Rates are added; latencies are those of all I/O together.
fn total(results: &Results) -> Row {
    let all = Histogram::new();
    results.reports.iter().for_each(|report| all.add(&report.latency));
    let mut total = Row { bdev: "total".to_owned(), ..Row::default() };
    for row in results.reports.iter().map(|report| row(report, results)) {
        total.iops += row.iops;
        total.mib_per_s += row.mib_per_s;
    }
    total.latencies(&all, results.ns_per_tick)
}

/// A table with a line for each disk and core, and one for the total.
pub(super) fn text(results: &Results) -> String {
    let rows: Vec<Row> = results.reports.iter().map(|report| row(report, results)).collect();
    let width = rows.iter().map(|row| row.bdev.len()).max().unwrap_or(0).max("total".len());
    let mut text = format!(
        "{:width$} {:>4} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>10}  latencies in us\n",
        "bdev", "core", "IOPS", "MiB/s", "mean", "p50", "p99", "p99.9", "max"
    );
    for row in rows.iter().chain([&total(results)]) {
        let core = row.core.map(|core| core.to_string()).unwrap_or_default();
        let [p50, p99, p999, max] = row.at_us;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:width$} {core:>4} {:>12.0} {:>10.1} {:>9.3} {p50:>9.3} {p99:>9.3} {p999:>9.3} {max:>10.3}",
            row.bdev, row.iops, row.mib_per_s, row.mean_us
        );
    }
    let verified: u64 = results.reports.iter().map(|report| report.verified).sum();
    if verified > 0 {
        let _ = writeln!(text, "{verified} reads compared with what was written");
    }
    text
}

/// The same as JSON, with the options of the run.
pub(super) fn json(options: &Perf, results: &Results) -> Value {
    let of_one = |report: &Report| {
        let row = row(report, results);
        json!({
            "bdev": report.bdev,
            "core": report.core,
            "iops": row.iops,
            "mib_per_s": row.mib_per_s,
            "latency_us": row.latencies_json(),
            "reads": report.reads,
            "writes": report.writes,
            "verified": report.verified,
            "failed": report.failed,
            "elapsed_s": report.elapsed.as_secs_f64(),
        })
    };
    let total = total(results);
    let pattern = options.pattern.to_possible_value();
    json!({
        "pattern": pattern.as_ref().map(clap::builder::PossibleValue::get_name),
        "rwmix": options.rwmix,
        "depth": options.depth,
        "io_size": options.io_size,
        "null_loop": options.null_loop,
        "copy_loop": options.copy_loop,
        "reports": results.reports.iter().map(of_one).collect::<Vec<_>>(),
        "total": {
            "iops": total.iops,
            "mib_per_s": total.mib_per_s,
            "latency_us": total.latencies_json(),
        },
    })
}

/// What went wrong, one line for each disk and core.
pub(super) fn failures(results: &Results) -> Vec<String> {
    let line = |report: &Report| {
        let why = match report.failure? {
            Failure::Status { lba, read, status } => {
                let op = if read { "read" } else { "write" };
                let reason = match status {
                    ..0 => std::io::Error::from_raw_os_error(status.saturating_neg()).to_string(),
                    _ => "a status of the bus".to_owned(),
                };
                format!("{op} at block {lba} ended with status {status}: {reason}")
            }
            Failure::Mismatch(at) => format!(
                "block {} differs from what was written (generation {}): at byte {} {:#018x} instead of {:#018x}",
                at.lba, at.generation, at.offset_bytes, at.found, at.expected
            ),
            Failure::Misplaced { lba, expected } => {
                format!(
                    "an append wrote block {lba} instead of {expected}, the zone's write pointer"
                )
            }
            Failure::NotBegun(errno) => {
                format!("it could not start: {}", std::io::Error::from_raw_os_error(errno))
            }
        };
        Some(format!("bdev {} on core {}: {why}", report.bdev, report.core))
    };
    results.reports.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn results() -> Results {
        let report = |core, latency| {
            let histogram = Histogram::new();
            (0..1000).for_each(|_| histogram.record(latency));
            Report {
                bdev: "m0".into(),
                core,
                reads: 600,
                writes: 400,
                bytes: 1000 << 12,
                verified: 0,
                failed: 0,
                elapsed: Duration::from_millis(500),
                latency: histogram,
                failure: None,
            }
        };
        Results { reports: vec![report(0, 10), report(1, 30)], ns_per_tick: 500.0 }
    }

    #[test]
    fn rates_add_up_and_latencies_are_of_all_io() {
        let total = total(&results());
        assert!((total.iops - 4000.0).abs() < 1e-6);
        assert!((total.mib_per_s - 15.625).abs() < 1e-6);
        assert!((total.mean_us - 10.0).abs() < 1e-6);
        let [p50, p99, _, max] = total.at_us;
        assert!((p50 - 5.0).abs() < 0.1 && (p99 - 15.0).abs() < 0.3 && (max - 15.0).abs() < 1e-6);
    }

    #[test]
    fn the_table_has_a_line_for_each_core_and_one_for_all() {
        let text = text(&results());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        let last: Vec<&str> = lines.last().unwrap().split_whitespace().collect();
        assert_eq!(&last[..3], ["total", "4000", "15.6"]);
        assert!(lines.iter().skip(1).all(|line| line.len() == lines[1].len()), "{text}");
    }

    #[test]
    fn a_failure_tells_where_and_why() {
        let mut results = results();
        results.reports[1].failure =
            Some(Failure::Status { lba: 8, read: false, status: -libc::ENOSPC });
        let lines = failures(&results);
        assert_eq!(lines.len(), 1);
        for part in ["m0 on core 1", "write at block 8", "-28", "No space"] {
            assert!(lines[0].contains(part), "{lines:?}");
        }
    }
}
