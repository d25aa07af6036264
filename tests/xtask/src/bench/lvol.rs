//! Logical volumes: what they cost, a first write, the longest I/O beside snapshots, many volumes.

use super::case::{self, Case, Disk};
use super::client::Client;
use super::rates::{bdevperf, config, perf, report};
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, table};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const VOLUMES: [usize; 3] = [1, 100, 1000];
/// Volumes, and MiB of the disk, of a store that is opened: one metadata page for each MiB.
const OPENED: (usize, u64) = (1000, 100_000);
/// Snapshots taken in one run.
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

/// A row of both sides' rates.
fn in_turn(
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
    let figures = [of_ours.told(), of_theirs.told(), ratio(&of_ours, &of_theirs)];
    table::row(row.into_iter().chain(figures));
    Ok(())
}

/// Nearly every write of the run goes to a cluster of its own: there are more than a run reaches.
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
    let mut ours = case::perf_arguments("randwrite", 1, "lvs/volume", &calls);
    ours.extend(["-o".to_owned(), "4096".to_owned()]);
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

/// The longest reads while snapshots are taken: a write waits for the copy of its cluster besides.
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
        cells.push(longest.told());
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
    let running = command.spawn().map_err(|error| format!("drivebay perf: {error}"))?;
    // The load begins after the calls that make the volume.
    std::thread::sleep(Duration::from_millis(800));
    for number in 0..snapshots {
        let name = format!("snapshot{number}");
        let params = json!({"lvol_name": "lvs/volume", "snapshot_name": name});
        Client::connect(&socket)?.call("bdev_lvol_snapshot", &params)?;
        std::thread::sleep(Duration::from_millis(40));
    }
    let output = running.wait_with_output().map_err(|error| format!("drivebay perf: {error}"))?;
    let report = report(&String::from_utf8_lossy(&output.stdout))?;
    let longest = report.pointer("/total/latency_us/max").and_then(Value::as_f64);
    longest.ok_or_else(|| "drivebay perf told no longest I/O".to_owned())
}

/// On a sparse file whose metadata is really there.
fn dirty_open(bench: &Bench) -> Result<(), String> {
    let (volumes, mib) = OPENED;
    table::begin(
        "Opening a store that was killed: 100,000 metadata pages, 1,000 volumes, a file, ms",
        &["ours", "reference", "its ÷ ours"],
    );
    let folder = Folder::new()?;
    let place = bench.folder.clone().unwrap_or_else(|| folder.0.clone());
    let path = place.join("drivebay-bench-lvol.img");
    let result = killed_store(bench, &path, volumes, mib).and_then(|()| {
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..bench.rounds {
            for side in bench.sides() {
                let samples = if side == Side::Ours { &mut ours } else { &mut theirs };
                samples.push(open_ms(bench, side, &path, volumes)?);
            }
        }
        table::row([ours.told(), theirs.told(), ratio(&theirs, &ours)]);
        Ok(())
    });
    _ = std::fs::remove_file(&path);
    result
}

fn aio(path: &Path) -> Value {
    json!({"name": "base", "filename": path.display().to_string(), "block_size": 4096})
}

fn killed_store(bench: &Bench, path: &Path, volumes: usize, mib: u64) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    File::create(path).and_then(|file| file.set_len(mib << 20)).map_err(told)?;
    let mut server = Server::start(bench, Side::Ours, "0x1")?;
    server.call("bdev_aio_create", &aio(path))?;
    let store = json!({"bdev_name": "base", "lvs_name": "lvs", "cluster_sz": 1 << 20});
    server.call("bdev_lvol_create_lvstore", &store)?;
    for number in 0..volumes {
        server.call("bdev_lvol_create", &volume(&format!("volume{number}"), 1024))?;
    }
    server.process.signal("KILL")?;
    drop(server);
    // What was never written would be read from nowhere.
    let mut file = File::options().read(true).write(true).open(path).map_err(told)?;
    let mut metadata = Vec::new();
    (&mut file).take((mib << 12) + (1 << 20)).read_to_end(&mut metadata).map_err(told)?;
    file.rewind().and_then(|()| file.write_all(&metadata)).map_err(told)?;
    file.sync_all().map_err(told)
}

fn open_ms(bench: &Bench, side: Side, path: &Path, volumes: usize) -> Result<f64, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    // Has the plugin loaded.
    server.call("bdev_lvol_get_lvstores", &Value::Null)?;
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
