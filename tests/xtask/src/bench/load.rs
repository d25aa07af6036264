//! Our own load generator for NVMe/TCP (`tests/perf/nvme-load`), on the second core.

use super::process::Running;
use super::{Bench, case, nvmf};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Command};

/// The load that an initiator has to make.
pub(super) struct Plan {
    pub(super) nqn: String,
    pub(super) nsid: u32,
    pub(super) connections: u32,
    /// Further connections without I/O.
    pub(super) idle: u32,
    /// Depth of each connection.
    pub(super) depth: u32,
    pub(super) io_size: u32,
    pub(super) write: bool,
}

/// The figures that an initiator reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) iops: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
}

/// Loads the target at `port` for the seconds of a round.
pub(super) fn ours(bench: &Bench, port: u16, plan: &Plan) -> Result<Measured, String> {
    run(port, plan, &["--seconds", &bench.seconds.to_string()])
}

/// As [`ours`], but the options of the load say when it ends.
pub(super) fn run(port: u16, plan: &Plan, more: &[&str]) -> Result<Measured, String> {
    Connected::new(port, plan, more)?.run()
}

/// An initiator that is connected and waits for the start signal.
pub(super) struct Connected {
    process: Running,
    output: BufReader<ChildStdout>,
}

impl Connected {
    /// `more`: arguments that say when it ends.
    pub(super) fn new(port: u16, plan: &Plan, more: &[&str]) -> Result<Self, String> {
        Self::start(command(port, plan).arg("--wait").args(more))
    }

    fn start(command: &mut Command) -> Result<Self, String> {
        let mut process = Running::start(command)?;
        let output = process.child.stdout.take().ok_or("nvme-load: no output")?;
        let mut connected = Self { process, output: BufReader::new(output) };
        match connected.line()?.as_str() {
            "connected" => Ok(connected),
            _ => Err("nvme-load: it could not connect".to_owned()),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| format!("nvme-load: {error}"))?;
        Ok(line.trim().to_owned())
    }

    /// Starts the I/O and waits for the figures. The initiator stays connected until then.
    pub(super) fn run(&mut self) -> Result<Measured, String> {
        let input = self.process.child.stdin.as_mut().ok_or("nvme-load: no input")?;
        input.write_all(b"\n").map_err(|error| format!("nvme-load: {error}"))?;
        let text = self.line()?;
        let reported = serde_json::from_str(&text).ok().as_ref().and_then(nvmf::of_json);
        reported.ok_or_else(|| format!("nvme-load printed no rate: {text}"))
    }
}

/// Connections without I/O, for as long as the value lives.
pub(super) fn hold(port: u16, nqn: &str, connections: u32) -> Result<Connected, String> {
    let plan = Plan {
        nqn: nqn.to_owned(),
        nsid: 1,
        connections,
        idle: 0,
        depth: 32,
        io_size: 4096,
        write: false,
    };
    Connected::start(command(port, &plan).arg("--hold"))
}

pub(super) fn command(port: u16, plan: &Plan) -> Command {
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
