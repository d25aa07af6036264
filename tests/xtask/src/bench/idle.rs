//! The cost of a target without work, and the latency of its next I/O.

use super::awake::Awake;
use super::samples::{Samples, ratio};
use super::server::Server;
use super::{Bench, Side, echo, load, table};
use serde_json::json;
use std::time::{Duration, Instant};

const NQN: &str = "nqn.2026-01.io.drivebay:bench-idle";
/// How long the bench watches an idle target.
const WATCHED: Duration = Duration::from_millis(1500);
/// Number of I/Os, each after a second of idleness.
const IOS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
    let [mut first, mut bare] = [(); 2].map(|()| [(); 2].map(|()| Samples::default()));
    let [mut kept, mut kept_share] = [(); 2].map(|()| Samples::default());
    for _ in 0..bench.rounds {
        for side in bench.sides() {
            let mut server = exported(bench, side)?;
            let share = idle_share(&server)?;
            if side == Side::Reference {
                theirs.push(share);
                continue;
            }
            ours.push(share);
            write_all(bench, &server)?;
            first[0].push(first_io_us(&server)?);
            if bench.awake {
                let _awake = Awake::core(0)?;
                kept_share.push(idle_share(&server)?);
                kept.push(first_io_us(&server)?);
            }
            server.call("framework_set_reactor_mode", &json!({"mode": "polled"}))?;
            first[1].push(first_io_us(&server)?);
            // The server ends first, because the bare program needs the core to itself: the core
            // must halt when that program sleeps.
            drop(server);
            for (samples, mode) in bare.iter_mut().zip([echo::Mode::Sleeps, echo::Mode::Polls]) {
                samples.push(echo::round_trip_us(echo::READ, mode, IOS, PAUSE)?);
            }
        }
    }
    table::begin(
        "Idle: null, malloc and aio namespaces, a connected initiator without I/O",
        &["what", "ours", "reference", "its ÷ ours"],
    );
    let what = "percent of a core";
    table::row([what, &ours.text(), &theirs.text(), &ratio(&theirs, &ours)]);
    let what = "the same, the core kept from halting";
    table::row([what, &kept_share.text(), &theirs.text(), &ratio(&theirs, &kept_share)]);
    table::begin(
        "First 4 KiB read after 1 s of idleness, µs at the initiator",
        &["who answers", "adaptive, or sleeps", "polled", "difference"],
    );
    let [first, polled] = first;
    let [bare, bare_polled] = bare;
    for (who, asleep, awake) in [
        ("ours", &first, &polled),
        ("ours, the core kept from halting", &kept, &polled),
        ("a program that only answers", &bare, &bare_polled),
    ] {
        let difference = asleep.median().zip(awake.median()).map(|(a, p)| format!("{:.1}", a - p));
        table::row([who, &asleep.text(), &awake.text(), &difference.unwrap_or_default()]);
    }
    Ok(())
}

fn exported(bench: &Bench, side: Side) -> Result<Server, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    let file = server.folder().join("disk.img");
    std::fs::File::create_new(&file)
        .and_then(|file| file.set_len(32 << 20))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    server.create_transport()?;
    for disk in ["null", "malloc"] {
        let params = json!({"name": disk, "num_blocks": 65536, "block_size": 512});
        server.call(&format!("bdev_{disk}_create"), &params)?;
    }
    let params = json!({"name": "aio", "filename": file, "block_size": 512});
    server.call("bdev_aio_create", &params)?;
    server.export(NQN, &["null", "malloc", "aio"].map(str::to_owned))?;
    Ok(server)
}

/// Processor time in percent of a core while a connection is open.
fn idle_share(server: &Server) -> Result<f64, String> {
    let _held = load::hold(server.port, NQN, 1)?;
    std::thread::sleep(Duration::from_millis(500));
    let (before, began) = (server.cpu_seconds()?, Instant::now());
    std::thread::sleep(WATCHED);
    Ok((server.cpu_seconds()? - before) * 100.0 / began.elapsed().as_secs_f64())
}

/// The load on the malloc namespace.
fn plan(depth: u32, write: bool) -> load::Plan {
    let nqn = NQN.to_owned();
    load::Plan { nqn, nsid: 2, connections: 1, idle: 0, depth, io_size: 4096, write }
}

/// Writes the whole disk, so that no page is touched for the first time during a measurement.
fn write_all(bench: &Bench, server: &Server) -> Result<(), String> {
    load::ours(bench, server.port, &plan(32, true)).map(drop)
}

/// Median of a few first I/Os, in microseconds.
fn first_io_us(server: &Server) -> Result<f64, String> {
    let (pause_ms, ios) = (PAUSE.as_millis().to_string(), IOS.to_string());
    let reported =
        load::run(server.port, &plan(1, false), &["--pause-ms", &pause_ms, "--ios", &ios])?;
    Ok(reported.p50_us)
}
