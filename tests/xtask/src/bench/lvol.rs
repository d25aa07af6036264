//! Logical volumes: rates, first writes to clusters, many volumes, the longest read beside snapshots, and the time to open a
//! store after its host was killed.

use super::case::{self, Case, Disk};
use super::client::Client;
use super::rates::{config, in_turn, report};
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, table};
use crate::run;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const VOLUMES: [usize; 3] = [1, 100, 1000];
/// Volumes of the store that is opened, and the size of its disk in MiB. The store has one metadata page per MiB.
const OPENED: (usize, u64) = (1000, 100_000);
/// How many snapshots one run takes.
const SNAPSHOTS: usize = 20;

pub(super) const CASES: [Case; 4] = [
    Case {
        name: "thick volume, read",
        disk: Disk::Volume { thin: false, snapshots: 0 },
        pattern: "randread",
    },
    Case {
        name: "thick volume, write",
        disk: Disk::Volume { thin: false, snapshots: 0 },
        pattern: "randwrite",
    },
    Case {
        name: "thin volume, write",
        disk: Disk::Volume { thin: true, snapshots: 0 },
        pattern: "randwrite",
    },
    Case {
        name: "read through 10 snapshots",
        disk: Disk::Volume { thin: false, snapshots: 10 },
        pattern: "randread",
    },
];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    rates(bench)?;
    first_writes(bench)?;
    many(bench)?;
    beside_snapshots(bench)?;
    dirty_open(bench)
}

fn rates(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Logical volumes on a RAM disk: I/O per second on one core",
        &["volume", "I/O", "depth", "ours", "reference", "ratio"],
    );
    for case in &CASES {
        for (size, bytes, depth) in [
            ("4 KiB", "4096", 1),
            ("4 KiB", "4096", 32),
            ("4 KiB", "4096", 128),
            ("128 KiB", "131072", 16),
        ] {
            let (volume, calls) = case.calls();
            let mut arguments = case.arguments(depth);
            arguments.extend(["-o".to_owned(), bytes.to_owned()]);
            let theirs = ["-o", bytes, "-w", case.pattern, "-m", "0x1", "-T", &volume];
            let row = [case.name, size, &depth.to_string()].map(str::to_owned);
            in_turn(bench, row, &arguments, &calls, &theirs, depth)?;
        }
    }
    Ok(())
}

/// The volume has more clusters than the run writes, so most writes are the first to their cluster.
fn first_writes(bench: &Bench) -> Result<(), String> {
    table::begin(
        "First writes: 4 KiB at random on a thin volume of 512 MiB with clusters of 8 KiB, depth 1",
        &[
            "writes per second, ours (the rest of the cluster is zeroed)",
            "reference (it is not)",
            "ratio",
        ],
    );
    let calls = [
        ("bdev_malloc_create", json!({"name": "base", "num_blocks": 1_200_000, "block_size": 512})),
        (
            "bdev_lvol_create_lvstore",
            json!({"bdev_name": "base", "lvs_name": "lvs", "cluster_sz": 8192, "clear_method": "none",
                "num_md_pages_per_cluster_ratio": 2}),
        ),
        ("bdev_lvol_create", volume("volume", 512)),
    ];
    let ours = case::perf_arguments("randwrite", 1, "lvs/volume", &calls);
    let theirs = ["-w", "randwrite", "-m", "0x1", "-T", "lvs/volume"];
    in_turn(bench, [], &ours, &calls, &theirs, 1)
}

fn volume(name: &str, size_in_mib: u32) -> Value {
    json!({"lvs_name": "lvs", "lvol_name": name, "size_in_mib": size_in_mib, "thin_provision": true})
}

fn many(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Growth: 4 KiB writes per second to the last of many thin volumes, depth 128",
        &["volumes", "ours", "reference", "ratio"],
    );
    for count in VOLUMES {
        let base = json!({"name": "base", "num_blocks": 262_144, "block_size": 512});
        let store = json!({"bdev_name": "base", "lvs_name": "lvs", "cluster_sz": 65536,
            "num_md_pages_per_cluster_ratio": 200});
        let mut calls = vec![("bdev_malloc_create", base), ("bdev_lvol_create_lvstore", store)];
        let names = (1..=count).map(|number| format!("volume{number}"));
        calls.extend(names.map(|name| ("bdev_lvol_create", volume(&name, 32))));
        let last = format!("lvs/volume{count}");
        let folder = Folder::new()?;
        let path = folder.0.join("config.json").display().to_string();
        std::fs::write(&path, config(&calls).to_string())
            .map_err(|error| format!("{path}: {error}"))?;
        let mut ours = case::perf_arguments("randwrite", 128, &last, &[]);
        ours.extend(["-c".to_owned(), path]);
        let theirs = ["-w", "randwrite", "-m", "0x1", "-T", &last];
        in_turn(bench, [count.to_string()], &ours, &calls, &theirs, 128)?;
    }
    Ok(())
}

/// Measures the longest read while snapshots are taken. It measures no writes, because a write after a snapshot also waits for the
/// copy of its cluster.
fn beside_snapshots(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Longest 4 KiB read of a volume in a run, depth 32, µs",
        &["without snapshots", "with 20 snapshots"],
    );
    let mut cells = Vec::new();
    for snapshots in [0, SNAPSHOTS] {
        let mut longest = Samples::default();
        for _ in 0..bench.rounds {
            longest.push(longest_of(bench, snapshots)?);
        }
        cells.push(longest.text());
    }
    table::row(cells);
    Ok(())
}

fn longest_of(bench: &Bench, snapshots: usize) -> Result<f64, String> {
    let [case, ..] = CASES;
    let folder = Folder::new()?;
    let socket = folder.0.join("rpc.sock");
    let mut command = bench.perf(&case.arguments(32));
    command.args(["-t", "2", "--warm-up", "0.5", "-r"]).arg(&socket);
    command.env("DRIVEBAY_RUNTIME", &folder.0).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = command.spawn().map_err(|error| format!("drivebay perf: {error}"))?;
    // The load begins after the calls that make the volume.
    std::thread::sleep(Duration::from_millis(800));
    if let Err(why) = take_snapshots(&socket, snapshots) {
        let _ = running.kill();
        let _ = running.wait();
        return Err(why);
    }
    let output = running.wait_with_output().map_err(|error| format!("drivebay perf: {error}"))?;
    let report = report(&String::from_utf8_lossy(&output.stdout))?;
    let longest = report.pointer("/total/latency_us/max").and_then(Value::as_f64);
    longest.ok_or_else(|| "drivebay perf reported no longest I/O".to_owned())
}

fn take_snapshots(socket: &Path, count: usize) -> Result<(), String> {
    let mut client = Client::connect(socket)?;
    for number in 0..count {
        let name = format!("snapshot{number}");
        let params = json!({"lvol_name": "lvs/volume", "snapshot_name": name});
        client.call("bdev_lvol_snapshot", &params)?;
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(())
}

/// The store is in a sparse file. Its metadata region has no holes.
fn dirty_open(bench: &Bench) -> Result<(), String> {
    let (volumes, mib) = OPENED;
    table::begin(
        "Opening a store that was killed: 100,000 metadata pages, 1,000 volumes, a file, ms",
        &["ours", "reference", "its ÷ ours"],
    );
    let folder = bench.folder.clone().unwrap_or_else(run::target);
    let path = folder.join(format!("bench-lvol-{}.img", std::process::id()));
    let result = killed_store(bench, &path, volumes, mib).and_then(|()| {
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..bench.rounds {
            for side in bench.sides() {
                let samples = if side == Side::Ours { &mut ours } else { &mut theirs };
                samples.push(open_ms(bench, side, &path, volumes)?);
            }
        }
        table::row([ours.text(), theirs.text(), ratio(&theirs, &ours)]);
        Ok(())
    });
    _ = std::fs::remove_file(&path);
    result
}

fn aio(path: &Path) -> Value {
    json!({"name": "base", "filename": path.display().to_string(), "block_size": 4096})
}

fn killed_store(bench: &Bench, path: &Path, volumes: usize, mib: u64) -> Result<(), String> {
    let context = |error: std::io::Error| format!("{}: {error}", path.display());
    File::create(path).and_then(|file| file.set_len(mib << 20)).map_err(context)?;
    let mut server = Server::start(bench, Side::Ours, "0x1")?;
    server.call("bdev_aio_create", &aio(path))?;
    let store = json!({"bdev_name": "base", "lvs_name": "lvs", "cluster_sz": 1 << 20});
    server.call("bdev_lvol_create_lvstore", &store)?;
    for number in 0..volumes {
        server.call("bdev_lvol_create", &volume(&format!("volume{number}"), 1024))?;
    }
    server.process.signal("KILL")?;
    drop(server);
    // Fills the holes of the metadata region, 4 KiB per MiB of the disk. A read of a hole would not reach the disk.
    let mut file = File::options().read(true).write(true).open(path).map_err(context)?;
    let mut metadata = Vec::new();
    (&mut file).take((mib << 12) + (1 << 20)).read_to_end(&mut metadata).map_err(context)?;
    file.rewind().and_then(|()| file.write_all(&metadata)).map_err(context)?;
    file.sync_all().map_err(context)
}

fn open_ms(bench: &Bench, side: Side, path: &Path, volumes: usize) -> Result<f64, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    // Load both of our plugins before the clock starts. The second call fails after the load, because there is no such bdev.
    server.call("bdev_lvol_get_lvstores", &Value::Null)?;
    _ = server.call("bdev_aio_delete", &json!({"name": "none"}));
    let began = Instant::now();
    server.call("bdev_aio_create", &aio(path))?;
    server.call("bdev_wait_for_examine", &Value::Null)?;
    let elapsed = began.elapsed();
    let found = server.call("bdev_lvol_get_lvols", &Value::Null)?;
    server.process.signal("KILL")?;
    match found.as_array().map(Vec::len) {
        Some(count) if count == volumes => Ok(elapsed.as_secs_f64() * 1e3),
        other => Err(format!("{side:?} found {other:?} volumes, not {volumes}")),
    }
}
