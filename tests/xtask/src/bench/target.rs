//! The target's cost of an I/O over NVMe/TCP: its instructions by callgrind, and its system calls by
//! perf at full speed. The initiator is ours, the disk is null.

use super::instructions::{ALLOCATORS, by_stage};
use super::load::{self, Connected, Plan};
use super::profile::Profile;
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, case, table};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Command;

const NQN: &str = "nqn.2026-01.io.drivebay:bench-target";
/// The lengths of the two runs, in I/Os.
const SHORT: u64 = 500;
const LONG: u64 = 5_500;

/// Whether it writes, bytes of each I/O, depth.
const LOADS: [(bool, u32, u32); 6] = [
    (false, 4096, 1),
    (false, 4096, 32),
    (false, 4096, 128),
    (true, 4096, 32),
    (true, 4096, 128),
    (false, 131_072, 16),
];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    table::begin(
        "NVMe/TCP: system calls of the target for each I/O, null disk, 1 connection",
        &["load", "depth", "ours", "reference", "its ÷ ours"],
    );
    for load in LOADS {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for side in bench.sides() {
            let mut server = Server::start(bench, side, "0x1")?;
            export(&mut server)?;
            let calls = system_calls(bench, &server, &plan(load))?;
            match side {
                Side::Ours => ours.push(calls),
                Side::Reference => theirs.push(calls),
            }
        }
        let (name, depth) = (name(load), load.2.to_string());
        table::row([name, depth, ours.text(), theirs.text(), ratio(&theirs, &ours)]);
    }
    let mut profiles = Vec::new();
    for load in LOADS {
        let short = profile(bench, &plan(load), SHORT)?;
        let long = profile(bench, &plan(load), LONG)?;
        profiles.push((load, long.per_io(&short, (LONG - SHORT) as f64)));
    }
    stages(&profiles);
    Ok(())
}

fn name((write, io_size, _): (bool, u32, u32)) -> String {
    format!("{} KiB {}", io_size / 1024, if write { "write" } else { "read" })
}

fn plan((write, io_size, depth): (bool, u32, u32)) -> Plan {
    Plan { nqn: NQN.to_owned(), nsid: 1, connections: 1, idle: 0, depth, io_size, write }
}

fn export(server: &mut Server) -> Result<(), String> {
    server.create_transport()?;
    let disk = json!({"name": "null", "num_blocks": 65536, "block_size": 512});
    server.call("bdev_null_create", &disk)?;
    server.export(NQN, &["null".to_owned()])
}

fn system_calls(bench: &Bench, server: &Server, plan: &Plan) -> Result<f64, String> {
    let folder = Folder::new()?;
    let out = folder.0.join("perf.out");
    let load = load::command(server.port, plan);
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"]).arg(&out);
    perf.args(["-p", &server.process.id().to_string(), "--"]).arg(load.get_program());
    perf.args(load.get_args()).args(["--seconds", &bench.seconds.to_string()]);
    let reported = case::output(&mut perf)?;
    let ios = reported.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let ios = ios.and_then(|reported: serde_json::Value| reported.get("ios")?.as_f64());
    let text =
        std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let calls = counted(&text).zip(ios).map(|(calls, ios)| calls / ios);
    calls.ok_or_else(|| format!("perf printed no count: {text}"))
}

/// Reads the number in `123,,raw_syscalls:sys_enter,…`.
fn counted(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
    line.split(',').next()?.parse().ok()
}

/// Runs a server under callgrind from start to end, with `ios` I/Os.
fn profile(bench: &Bench, plan: &Plan, ios: u64) -> Result<Profile, String> {
    let folder = Folder::new()?;
    let out = folder.0.join("callgrind.out");
    let mut server = Server::start_counted(bench, &out)?;
    export(&mut server)?;
    let mut connected = Connected::new(server.port, plan, &["--ios", &ios.to_string()])?;
    connected.run()?;
    drop(connected);
    server.process.end();
    let text =
        std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(Profile::parse(&text))
}

/// Prints the instructions by part of the code.
fn stages(profiles: &[((bool, u32, u32), Profile)]) {
    let mut columns = vec!["part of the code".to_owned()];
    columns.extend(profiles.iter().map(|(load, _)| format!("{}, depth {}", name(*load), load.2)));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    table::begin(
        "NVMe/TCP: instructions of the target for each I/O, the kernel's not counted",
        &columns,
    );
    let stages: Vec<_> = profiles.iter().map(|(_, profile)| by_stage(profile)).collect();
    let names: BTreeSet<&String> = stages.iter().flat_map(|stages| stages.keys()).collect();
    let line = |name: &str, cells: &[f64], digits: usize| {
        let cells = cells.iter().map(|count| format!("{count:.digits$}"));
        table::row([name.to_owned()].into_iter().chain(cells));
    };
    let each = |of: &dyn Fn(&Profile) -> f64| -> Vec<f64> {
        profiles.iter().map(|(_, profile)| of(profile)).collect()
    };
    for name in names {
        let cells: Vec<f64> =
            stages.iter().map(|stages| stages.get(name).copied().unwrap_or_default()).collect();
        if cells.iter().any(|count| *count >= 5.0) {
            line(name, &cells, 0);
        }
    }
    line("all", &each(&|profile| profile.total("Ir")), 0);
    line("allocations and frees", &each(&|profile| profile.calls_of(&ALLOCATORS)), 3);
    line("atomic read-modify-writes", &each(&|profile| profile.total("Ge")), 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_first_field() {
        let text = "# started\n\n1234,,raw_syscalls:sys_enter,100,100.00,,\n";
        assert_eq!(counted(text), Some(1234.0));
        assert_eq!(counted("<not counted>,,raw_syscalls:sys_enter"), None);
    }
}
