//! I/O per second: medians of runs in turn.

use super::case::{self, CASES, Case, DEPTHS};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn print(reference: Option<&Path>, rounds: usize, seconds: u32) -> Result<(), String> {
    let generator = reference.map(generator).transpose()?;
    println!("\n4 KiB I/O per second on one core, medians of {rounds} runs of {seconds} s\n");
    print!("{:30} {:>6} {:>12} {:>12}", "", "depth", "lowest", "median");
    println!("{}", if generator.is_some() { "    reference    ratio" } else { "" });
    for case in &CASES {
        for depth in DEPTHS {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(of_ours(case, depth, seconds)?);
                if let Some(generator) = generator.as_ref().filter(|_| case.is_of_both()) {
                    theirs.push(of_reference(generator, case, depth, seconds)?);
                }
            }
            let (lowest, own) = (median(&mut ours).0, median(&mut ours).1);
            print!("{:30} {depth:>6} {lowest:>12.0} {own:>12.0}", case.name);
            if !theirs.is_empty() {
                let other = median(&mut theirs).1;
                print!(" {other:>12.0} {:>8.2}", own / other);
            }
            println!();
        }
    }
    Ok(())
}

/// The lowest and the middle one; 0 of nothing.
fn median(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    (at(0), at(values.len() / 2))
}

fn of_ours(case: &Case, depth: u32, seconds: u32) -> Result<f64, String> {
    let seconds = seconds.to_string();
    let mut perf = Command::new(case::program());
    perf.args(case.arguments(depth)).args(["-t", &seconds, "--warm-up", "0.2"]);
    let report: Value = serde_json::from_str(&case::output(&mut perf)?)
        .map_err(|error| format!("the report of drivebay perf: {error}"))?;
    let iops = report.pointer("/total/iops").and_then(Value::as_f64);
    iops.ok_or_else(|| "drivebay perf told no rate".to_owned())
}

fn generator(reference: &Path) -> Result<PathBuf, String> {
    let generator = reference.join("build/examples/bdevperf");
    let missing =
        || format!("--reference {}: there is no build/examples/bdevperf", reference.display());
    generator.is_file().then_some(generator).ok_or_else(missing)
}

fn of_reference(generator: &Path, case: &Case, depth: u32, seconds: u32) -> Result<f64, String> {
    let (bdev, calls) = case.calls();
    let calls: Vec<Value> =
        calls.iter().map(|(method, params)| json!({"method": method, "params": params})).collect();
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": calls}]});
    let path = std::env::temp_dir().join(format!("drivebay-bench-{}.json", std::process::id()));
    std::fs::write(&path, config.to_string())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = Command::new(generator);
    command.args(["-q", &depth.to_string(), "-o", "4096", "-t", &seconds.to_string()]);
    command.args(["-w", case.pattern, "-m", "0x1", "--no-huge", "-s", "1024", "-T", &bdev, "-c"]);
    let output = case::output(command.arg(&path));
    let _ = std::fs::remove_file(&path);
    let text = output?;
    total(&text).ok_or_else(|| format!("{}: no total in: {text}", generator.display()))
}

/// The rate in `Total : 123.00 …`.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.contains("Total"))?;
    line.split(':').nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&mut [5.0, 1.0, 9.0]), (1.0, 5.0));
        assert_eq!(median(&mut []), (0.0, 0.0));
    }

    #[test]
    fn the_references_total_is_its_rate() {
        let text = "Malloc0 : 2.00 5 6\n ====\n Total              : 1680000.50 6562.50 0.00\n";
        assert_eq!(total(text), Some(1_680_000.5));
        assert_eq!(total("nothing"), None);
    }
}
