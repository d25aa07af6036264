//! I/O per second over the bus on one core, generator and disk on the same reactor.

use super::case::{self, CASES, Case};
use super::samples::{Samples, ratio};
use super::server::Folder;
use super::{Bench, Side, table};
use serde_json::{Value, json};

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Bus: 4 KiB I/O per second on one core",
        &[
            "disk",
            "depth",
            "ours",
            "reference",
            "ratio",
            "memcpy in place of the bus",
            "ours ÷ memcpy",
        ],
    );
    for case in &CASES {
        for &depth in case.depths() {
            let [mut ours, mut theirs, mut copies] = [(); 3].map(|()| Samples::default());
            for _ in 0..bench.rounds {
                if let Some(copy) = case.copy() {
                    copies.push(of_ours(bench, &copy, depth)?);
                }
                for side in bench.sides() {
                    match side {
                        Side::Ours => ours.push(of_ours(bench, case, depth)?),
                        Side::Reference if case.is_of_both() => {
                            theirs.push(of_reference(bench, case, depth)?);
                        }
                        Side::Reference => {}
                    }
                }
            }
            table::row([
                case.name.to_owned(),
                depth.to_string(),
                ours.text(),
                theirs.text(),
                ratio(&ours, &theirs),
                copies.text(),
                ratio(&ours, &copies),
            ]);
        }
    }
    Ok(())
}

fn of_ours(bench: &Bench, case: &Case, depth: u32) -> Result<f64, String> {
    perf(bench, &case.arguments(depth))
}

/// Measures both sides in alternation and prints a row of their rates. `row` has the first cells.
pub(super) fn in_turn(
    bench: &Bench,
    row: impl IntoIterator<Item = String>,
    ours: &[String],
    calls: &[(&str, Value)],
    theirs: &[&str],
    depth: u32,
) -> Result<(), String> {
    let [mut of_ours, mut of_theirs] = [(); 2].map(|()| Samples::default());
    for _ in 0..bench.rounds {
        for side in bench.sides() {
            match side {
                Side::Ours => of_ours.push(perf(bench, ours)?),
                Side::Reference => of_theirs.push(bdevperf(bench, calls, theirs, depth)?),
            }
        }
    }
    let figures = [of_ours.text(), of_theirs.text(), ratio(&of_ours, &of_theirs)];
    table::row(row.into_iter().chain(figures));
    Ok(())
}

/// The rate of `drivebay perf` with these arguments.
pub(super) fn perf(bench: &Bench, arguments: &[String]) -> Result<f64, String> {
    let mut perf = bench.perf(arguments);
    perf.args(["-t", &bench.seconds.to_string(), "--warm-up", "0.1"]);
    let report = report(&case::output(&mut perf)?)?;
    let iops = report.pointer("/total/iops").and_then(Value::as_f64);
    iops.ok_or_else(|| "drivebay perf reported no rate".to_owned())
}

/// Parses the report that `drivebay perf` printed.
pub(super) fn report(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("the report of drivebay perf: {error}"))
}

fn of_reference(bench: &Bench, case: &Case, depth: u32) -> Result<f64, String> {
    let (bdev, calls) = case.calls();
    bdevperf(bench, &calls, &["-w", case.pattern, "-m", "0x1", "-T", &bdev], depth)
}

/// The rate of the reference's generator with these bdevs and arguments.
pub(super) fn bdevperf(
    bench: &Bench,
    calls: &[(&str, Value)],
    arguments: &[&str],
    depth: u32,
) -> Result<f64, String> {
    let folder = Folder::new()?;
    let path = folder.0.join("config.json");
    std::fs::write(&path, config(calls).to_string())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = bench.reference()?.bdevperf();
    command.args(["-q", &depth.to_string(), "-o", "4096", "-t", &bench.seconds.to_string()]);
    command.args(arguments).arg("-c").arg(&path);
    let text = case::output(&mut command)?;
    total(&text).ok_or_else(|| format!("bdevperf printed no total: {text}"))
}

/// A configuration that makes bdevs, for either side.
pub(super) fn config(calls: &[(&str, Value)]) -> Value {
    let calls: Vec<Value> =
        calls.iter().map(|(method, params)| json!({"method": method, "params": params})).collect();
    json!({"subsystems": [{"subsystem": "bdev", "config": calls}]})
}

/// The rate in `Total : 123.00 …`.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.contains("Total"))?;
    line.split(':').nth(1)?.split_whitespace().next()?.parse().ok()
}

/// The number of I/Os: the rate times the seconds in the line of the job.
pub(super) fn ios(text: &str) -> Option<f64> {
    let job = text.lines().skip_while(|line| !line.starts_with("Job: ")).nth(1)?;
    let mut numbers = job.split(':').nth(1)?.split_whitespace();
    let (seconds, rate): (f64, f64) =
        (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(seconds * rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_total_is_its_rate() {
        let text = "Malloc0 : 2.00 5 6\n ====\n Total              : 1680000.50 6562.50 0.00\n";
        assert_eq!(total(text), Some(1_680_000.5));
        assert_eq!(total("nothing"), None);
        let text = "Job: base (Core Mask 0x1)\n\t base      :   2.00  100.50  1.0 0.0\n";
        assert_eq!(ios(text), Some(201.0));
    }
}
