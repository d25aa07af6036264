//! One reactor, then two, each with its own generator on the same disk.

use super::rates::{bdevperf, perf};
use super::samples::{Samples, ratio};
use super::{Bench, Side, case, table};
use serde_json::json;

const DEPTH: u32 = 128;

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    table::begin(
        "One and two reactors, 4 KiB reads per second at depth 128 of each",
        &["disk", "side", "one", "two", "ratio"],
    );
    for disk in ["null", "malloc"] {
        for side in bench.sides() {
            let (mut one, mut two) = (Samples::default(), Samples::default());
            for _ in 0..bench.rounds {
                one.push(rate(bench, side, disk, "0x1")?);
                two.push(rate(bench, side, disk, "0x3")?);
            }
            table::row([disk, side.name(), &one.text(), &two.text(), &ratio(&two, &one)]);
        }
    }
    Ok(())
}

fn rate(bench: &Bench, side: Side, disk: &str, cpumask: &str) -> Result<f64, String> {
    let params = json!({"name": "base", "num_blocks": 65536, "block_size": 512});
    let method = format!("bdev_{disk}_create");
    if side == Side::Reference {
        let arguments = ["-w", "randread", "-m", cpumask, "-T", "base"];
        return bdevperf(bench, &[(&method, params)], &arguments, DEPTH);
    }
    let folder = case::folder().display().to_string();
    let (call, depth) = (format!("{method} {params}"), DEPTH.to_string());
    let arguments = ["perf", "--json", "--plugin-dir", &folder, "-w", "randread", "-q", &depth]
        .into_iter()
        .chain(["-m", cpumask, "--rpc", &call]);
    perf(bench, &arguments.map(str::to_owned).collect::<Vec<_>>())
}
