//! Messages back and forth between two lightweight threads, through the plugin ABI
//! (`tests/perf/probe`).

use super::samples::{Samples, ratio};
use super::server::Server;
use super::{Bench, Side, case, table};
use serde_json::{Value, json};

/// Name, core of the second thread, number of messages at once, round trips of each message.
const CASES: [(&str, u32, u32, u64); 4] = [
    ("same reactor, 1 at once", 0, 1, 5_000_000),
    ("same reactor, 32 at once", 0, 32, 300_000),
    ("two reactors, 1 at once", 1, 1, 500_000),
    ("two reactors, 32 at once", 1, 32, 100_000),
];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Messages: ns for each round trip",
        &["threads on", "ours", "reference", "its ÷ ours"],
    );
    for (name, core, depth, round_trips) in CASES {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for _ in 0..bench.rounds {
            ours.push(of_ours(bench, core, depth, round_trips)?);
            if let Some(ns) = of_reference(bench, core, depth)? {
                theirs.push(ns);
            }
        }
        table::row([name, &ours.text(), &theirs.text(), &ratio(&theirs, &ours)]);
    }
    Ok(())
}

fn of_ours(bench: &Bench, core: u32, depth: u32, round_trips: u64) -> Result<f64, String> {
    let mut server = Server::start(bench, Side::Ours, "0x3")?;
    let params = json!({"near": 0, "far": core, "depth": depth, "round_trips": round_trips});
    let reported = server.call("probe_round_trips", &params)?;
    reported
        .get("ns")
        .and_then(Value::as_f64)
        .ok_or_else(|| format!("probe_round_trips: {reported}"))
}

fn of_reference(bench: &Bench, core: u32, depth: u32) -> Result<Option<f64>, String> {
    let Some(mut command) = bench.reference.as_ref().and_then(|reference| reference.message_perf())
    else {
        return Ok(None);
    };
    command.args(["-m", "0x3", "-C", &core.to_string(), "-q", &depth.to_string()]);
    let text = case::output(command.args(["-t", &bench.seconds.to_string()]))?;
    let reported = text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(reported.as_ref().and_then(|reported| reported.get("ns")).and_then(Value::as_f64))
}
