//! Our own load generator for NVMe/TCP (`tests/perf/nvme-load`), on the second core.

use super::process::Running;
use super::{Bench, case, nvmf};
use std::io::{BufRead, BufReader};
use std::process::Command;

/// What is asked of an initiator.
pub(super) struct Plan {
    pub(super) nqn: String,
    pub(super) nsid: u32,
    pub(super) connections: u32,
    /// Connections beside those, without I/O.
    pub(super) idle: u32,
    /// Of each connection.
    pub(super) depth: u32,
    pub(super) io_size: u32,
    pub(super) write: bool,
}

/// What an initiator tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) iops: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
}

/// Loads the target at `port` for the seconds of a round.
pub(super) fn ours(bench: &Bench, port: u16, plan: &Plan) -> Result<Told, String> {
    run(port, plan, &["--seconds", &bench.seconds.to_string()])
}

/// As [`ours`], until its own end.
pub(super) fn run(port: u16, plan: &Plan, more: &[&str]) -> Result<Told, String> {
    let text = case::output(command(port, plan).args(more))?;
    let told = serde_json::from_str(&text).ok().as_ref().and_then(nvmf::of_json);
    told.ok_or_else(|| format!("nvme-load told no rate: {text}"))
}

/// Connections without I/O, for as long as the value lives.
pub(super) fn hold(port: u16, nqn: &str, connections: u32) -> Result<Running, String> {
    let plan = Plan {
        nqn: nqn.to_owned(),
        nsid: 1,
        connections,
        idle: 0,
        depth: 32,
        io_size: 4096,
        write: false,
    };
    let mut held = Running::start(command(port, &plan).arg("--hold"))?;
    let mut line = String::new();
    if let Some(output) = held.child.stdout.take() {
        // Nothing is said when it could not connect.
        let _ = BufReader::new(output).read_line(&mut line);
    }
    if line.trim() == "connected" { Ok(held) } else { Err(format!("{nqn}: no connection")) }
}

fn command(port: u16, plan: &Plan) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(case::folder().join("nvme-load"));
    command.args(["--address", &format!("127.0.0.1:{port}"), "--nqn", &plan.nqn]);
    for (name, value) in [
        ("--nsid", plan.nsid),
        ("--connections", plan.connections),
        ("--idle", plan.idle),
        ("--depth", plan.depth),
        ("--io-size", plan.io_size),
    ] {
        if value > 0 {
            command.args([name, &value.to_string()]);
        }
    }
    if plan.write {
        command.arg("--write");
    }
    command
}
