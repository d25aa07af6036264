//! RAID on RAM disks: rates, rebuilds with and without load, and the longest I/O when a member dies or is rebuilt.

use super::case::{self, Case, Disk, array_calls};
use super::client::Client;
use super::process::Running;
use super::rates::{config, in_turn};
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, report, table};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The cases of RAID whose instructions the benchmark counts.
pub(super) const COUNTED: [Case; 2] = [RAID0, RAID1];

const RAID0: Case = array("raid0, read", "raid0", false, "randread");
const RAID1: Case = array("raid1, read", "raid1", false, "randread");
const CASES: [(Case, &str); 8] = [
    (RAID0, "4096"),
    (array("raid0, write", "raid0", false, "randwrite"), "4096"),
    (RAID1, "4096"),
    (array("raid1, write", "raid1", false, "randwrite"), "4096"),
    (array("raid1 without a member, read", "raid1", true, "randread"), "4096"),
    (array("raid5f, read", "raid5f", false, "randread"), "4096"),
    (array("raid5f, write of stripes", "raid5f", false, "randwrite"), "131072"),
    (array("raid5f without a member, read", "raid5f", true, "randread"), "4096"),
];
/// MiB of a member that is rebuilt.
const REBUILT: u64 = 32;
/// MiB of a member that is rebuilt within the two seconds of a run.
const SMALL: u64 = 16;
/// How long a rebuild may take.
const PATIENCE: Duration = Duration::from_secs(60);

const fn array(
    name: &'static str,
    level: &'static str,
    is_degraded: bool,
    pattern: &'static str,
) -> Case {
    Case { name, disk: Disk::Array { level, is_degraded }, pattern }
}

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    rates(bench);
    rebuilds(bench)?;
    longest(bench)
}

fn rates(bench: &Bench) {
    table::begin(
        "Arrays of RAM disks: I/O per second on one core",
        &["array", "bytes", "depth", "ours", "reference", "ratio"],
    );
    for (case, bytes) in &CASES {
        for depth in [1, 32, 128] {
            let (name, calls) = case.calls();
            let mut arguments = case.arguments(depth);
            arguments.extend(["-o".to_owned(), (*bytes).to_owned()]);
            let theirs = ["-o", bytes, "-w", case.pattern, "-m", "0x1", "-T", &name];
            let row = [case.name, bytes, &depth.to_string()].map(str::to_owned);
            // A build of the reference may lack a level.
            if let Err(why) = in_turn(bench, row, &arguments, &calls, &theirs, depth) {
                report::line(&format!("\n{}: not measured: {why}", case.name));
            }
        }
    }
}

fn rebuilds(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Rebuild of a raid1 on RAM disks, MiB per second",
        &["load", "ours", "reference", "ratio"],
    );
    let [mut idle, mut loaded] = [(); 2].map(|()| [Samples::default(), Samples::default()]);
    for _ in 0..bench.rounds {
        for side in bench.sides() {
            let place = usize::from(side == Side::Reference);
            push(&mut idle, place, rebuild_without_load(bench, side)?);
            let mut load = Load::start(bench, side)?;
            push(&mut loaded, place, rebuild(&mut load.client, REBUILT)?);
        }
    }
    for (name, [ours, theirs]) in [("none", idle), ("4 KiB reads, depth 32", loaded)] {
        table::row([name.to_owned(), ours.text(), theirs.text(), ratio(&ours, &theirs)]);
    }
    Ok(())
}

/// The server ends with this function, because it must not share its core with the next measurement.
fn rebuild_without_load(bench: &Bench, side: Side) -> Result<f64, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    for (method, params) in array_calls("raid1", REBUILT) {
        server.call(method, &params)?;
    }
    rebuild(&mut server.client, REBUILT)
}

fn push(of_sides: &mut [Samples; 2], place: usize, value: f64) {
    if let Some(samples) = of_sides.get_mut(place) {
        samples.push(value);
    }
}

/// Replaces a member of `mib` MiB with another bdev. Returns the speed of the rebuild, in MiB per second.
fn rebuild(client: &mut Client, mib: u64) -> Result<f64, String> {
    let spare = json!({"name": "spare", "num_blocks": mib << 11, "block_size": 512});
    client.call("bdev_malloc_create", &spare)?;
    client.call("bdev_raid_remove_base_bdev", &json!({"name": "member1"}))?;
    let add = json!({"raid_bdev": "array", "base_bdev": "spare"});
    let began = Instant::now();
    // Wait, because the reference answers a removal before the removal has ended.
    while let Err(why) = client.call("bdev_raid_add_base_bdev", &add) {
        if began.elapsed() > PATIENCE {
            return Err(why);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let arrays = client.call("bdev_raid_get_bdevs", &json!({"category": "all"}))?;
        let is_rebuilt = arrays.pointer("/0/process").is_none()
            && arrays.pointer("/0/num_base_bdevs_discovered") == Some(&json!(2));
        if is_rebuilt {
            return Ok(mib as f64 / began.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("the rebuild did not end".to_owned())
}

/// A load generator that makes 4 KiB random reads of the array and serves RPC calls.
struct Load {
    client: Client,
    process: Running,
    _folder: Folder,
}

impl Load {
    fn start(bench: &Bench, side: Side) -> Result<Self, String> {
        let folder = Folder::new()?;
        let socket = folder.0.join("rpc.sock");
        let calls = array_calls("raid1", REBUILT);
        let mut command = match side {
            Side::Ours => bench.perf(&case::perf_arguments("randread", 32, "array", &calls)),
            Side::Reference => {
                let path = folder.0.join("config.json");
                std::fs::write(&path, config(&calls).to_string())
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let mut command = bench.reference()?.bdevperf();
                command
                    .args(["-q", "32", "-o", "4096", "-w", "randread", "-m", "0x1", "-T", "array"]);
                command.arg("-c").arg(&path);
                command
            }
        };
        command.args(["-t", "60", "-r"]).arg(&socket).env("DRIVEBAY_RUNTIME", &folder.0);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Running::start(&mut command)?;
        let began = Instant::now();
        let client = loop {
            match Client::connect(&socket) {
                Ok(client) => break client,
                Err(_) if process.has_ended() => {
                    return Err(format!("{side:?}: the load generator has ended"));
                }
                Err(why) if began.elapsed() > PATIENCE => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut load = Self { client, process, _folder: folder };
        load.wait_for_the_array()?;
        Ok(load)
    }

    fn wait_for_the_array(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !self.process.has_ended() {
            let arrays = self.client.call("bdev_raid_get_bdevs", &json!({"category": "online"}));
            if arrays.is_ok_and(|arrays| arrays.pointer("/0").is_some()) {
                std::thread::sleep(Duration::from_millis(200));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("the load generator has no array".to_owned())
    }
}

/// What happens to the array during a run.
#[derive(Clone, Copy)]
enum Event {
    Nothing,
    MemberDies,
    Rebuild,
}

fn longest(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Longest 4 KiB write of a raid1 on RAM disks in a run of two seconds, depth 32, µs (ours alone)",
        &["nothing happens", "a member dies", "a rebuild starts and ends"],
    );
    let mut cells = Vec::new();
    for event in [Event::Nothing, Event::MemberDies, Event::Rebuild] {
        let mut samples = Samples::default();
        for _ in 0..bench.rounds {
            samples.push(longest_of(bench, event)?);
        }
        cells.push(samples.text());
    }
    table::row(cells);
    Ok(())
}

fn longest_of(bench: &Bench, event: Event) -> Result<f64, String> {
    let folder = Folder::new()?;
    let socket = folder.0.join("rpc.sock");
    let calls = array_calls("raid1", SMALL);
    let mut command: Command = bench.perf(&case::perf_arguments("randwrite", 32, "array", &calls));
    command.args(["-t", "2", "--warm-up", "0.5", "-r"]).arg(&socket);
    command.env("DRIVEBAY_RUNTIME", &folder.0).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = command.spawn().map_err(|error| format!("drivebay perf: {error}"))?;
    // Wait until the load has begun, after the calls that create the array.
    std::thread::sleep(Duration::from_millis(800));
    let happened = Client::connect(&socket).and_then(|mut client| match event {
        Event::Nothing => Ok(()),
        Event::MemberDies => {
            client.call("bdev_malloc_delete", &json!({"name": "member1"})).map(drop)
        }
        Event::Rebuild => rebuild(&mut client, SMALL).map(drop),
    });
    if let Err(why) = happened {
        _ = running.kill();
        _ = running.wait();
        return Err(why);
    }
    let output = running.wait_with_output().map_err(|error| format!("drivebay perf: {error}"))?;
    let report = super::rates::report(&String::from_utf8_lossy(&output.stdout))?;
    let longest = report.pointer("/total/latency_us/max").and_then(Value::as_f64);
    longest.ok_or_else(|| "drivebay perf reported no longest I/O".to_owned())
}
