//! The NVMe/TCP targets: both on the first core, the same initiator on the second.
//!
//! The initiator is the reference's if a build of it is given, else our own. Ours also replaces the reference's
//! where that cannot start. Both servers run all the time. SIGSTOP holds the server that is not measured, because the
//! reference's server spins.

use super::reference::Reference;
use super::samples::{Samples, ratio};
use super::server::{ADDRESS, Server};
use super::{Bench, Side, echo, load, table};
use serde_json::{Value, json};
use std::time::Duration;

/// How often the bench tries again when the reference's initiator cannot start.
const TRIES: u32 = 4;
/// Round trips of one run of the bare echo.
const ECHOES: usize = 100_000;

/// The measurements for one kind of load.
struct Load {
    write: bool,
    io_size: u32,
    /// Depth of each connection.
    depth: u32,
}

impl Load {
    /// Whether it is measured without `--long`.
    fn is_short(&self, connections: u32) -> bool {
        connections == 1 || (self.depth > 1 && self.io_size == 4096)
    }
}

const LOADS: [Load; 7] = [
    Load { write: false, io_size: 4096, depth: 1 },
    Load { write: false, io_size: 4096, depth: 32 },
    Load { write: false, io_size: 4096, depth: 128 },
    Load { write: true, io_size: 4096, depth: 1 },
    Load { write: true, io_size: 4096, depth: 32 },
    Load { write: true, io_size: 4096, depth: 128 },
    Load { write: false, io_size: 131_072, depth: 16 },
];

/// The host's name. Without it the reference's initiator sends an empty name.
const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:d71eba1e-5e2a-4c0a-9d00-647269766531";
const CONNECTIONS: [u32; 2] = [1, 8];
const DISKS: [&str; 2] = ["null", "malloc"];

/// The figures of one run.
pub(super) struct Measured {
    pub(super) iops: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
    /// Time per I/O: of the reactors' rounds with work, and of the process.
    pub(super) busy_us: f64,
    pub(super) cpu_us: f64,
}

/// Figures of one side.
#[derive(Default)]
struct Figures {
    iops: Samples,
    p99: Samples,
    p99_9: Samples,
    busy: Samples,
    cpu: Samples,
}

impl Figures {
    fn push(&mut self, one: &Measured) {
        self.iops.push(one.iops);
        self.p99.push(one.p99_us);
        self.p99_9.push(one.p99_9_us);
        self.busy.push(one.busy_us);
        self.cpu.push(one.cpu_us);
    }
}

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let mut servers = Vec::new();
    for side in bench.sides() {
        servers.push(started(bench, side)?);
    }
    table::begin(
        "NVMe/TCP target",
        &[
            "disk, connections, load, depth of each",
            "IOPS, ours",
            "reference",
            "ratio",
            "busy µs per I/O, ours",
            "reference",
            "its ÷ ours",
            "processor µs per I/O, ours",
            "reference",
            "p99 µs, ours",
            "reference",
            "p99.9 µs, ours",
            "reference",
        ],
    );
    for disk in DISKS {
        for connections in CONNECTIONS {
            for load in LOADS.iter().filter(|load| bench.long || load.is_short(connections)) {
                let mut by =
                    |initiator| line(bench, &mut servers, disk, connections, load, initiator);
                let tried = by(bench.reference.as_ref()).or_else(|_| by(None));
                if let Err(why) = tried {
                    let depth = load.depth;
                    table::row([format!(
                        "{disk}, {connections}, depth {depth}: not measured: {why}"
                    )]);
                }
            }
        }
    }
    drop(servers);
    echoes(bench)
}

/// The limit at depth 1: the same bytes back and forth, without any work on them.
fn echoes(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Bare echo over TCP, one at a time, both sides polled",
        &["bytes of", "there", "back", "round trips per second"],
    );
    for (name, talk) in [("a read of 4 KiB", echo::READ), ("a write of 4 KiB", echo::WRITE)] {
        let mut rates = Samples::default();
        for _ in 0..bench.rounds {
            rates.push(1e6 / echo::round_trip_us(talk, echo::Mode::Polls, ECHOES, Duration::ZERO)?);
        }
        let [there, back] = [talk.request, talk.answer].map(|len| len.to_string());
        table::row([name, &there, &back, &rates.text()]);
    }
    Ok(())
}

fn nqn(disk: &str) -> String {
    format!("nqn.2026-01.io.drivebay:bench-{disk}")
}

fn started(bench: &Bench, side: Side) -> Result<Server, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    server.create_transport()?;
    for disk in DISKS {
        let disk_params = json!({"name": disk, "num_blocks": 65536, "block_size": 512});
        server.call(&format!("bdev_{disk}_create"), &disk_params)?;
        server.export(&nqn(disk), &[disk.to_owned()])?;
    }
    server.process.signal("STOP")?;
    Ok(server)
}

/// Prints one row. `initiator` loads both sides, or our own if it is `None`.
fn line(
    bench: &Bench,
    servers: &mut [Server],
    disk: &str,
    connections: u32,
    load: &Load,
    initiator: Option<&Reference>,
) -> Result<(), String> {
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for _ in 0..bench.rounds {
        for server in servers.iter_mut() {
            server.process.signal("CONT")?;
            let one = measure(bench, server, disk, connections, load, initiator);
            server.process.signal("STOP")?;
            let one = one?;
            match server.side {
                Side::Ours => ours.push(&one),
                Side::Reference => theirs.push(&one),
            }
        }
    }
    let kind = if load.write { "write" } else { "read" };
    let depth = load.depth;
    let own = if initiator.is_none() && bench.reference.is_some() { " (nvme-load)" } else { "" };
    table::row([
        format!("{disk}, {connections}, {} KiB {kind}, {depth}{own}", load.io_size / 1024),
        ours.iops.text(),
        theirs.iops.text(),
        ratio(&ours.iops, &theirs.iops),
        ours.busy.text(),
        theirs.busy.text(),
        ratio(&theirs.busy, &ours.busy),
        ours.cpu.text(),
        theirs.cpu.text(),
        ours.p99.text(),
        theirs.p99.text(),
        ours.p99_9.text(),
        theirs.p99_9.text(),
    ]);
    Ok(())
}

fn measure(
    bench: &Bench,
    server: &mut Server,
    disk: &str,
    connections: u32,
    load: &Load,
    initiator: Option<&Reference>,
) -> Result<Measured, String> {
    let plan = load::Plan {
        nqn: nqn(disk),
        nsid: 1,
        connections,
        idle: 0,
        depth: load.depth,
        io_size: load.io_size,
        write: load.write,
    };
    let port = server.port;
    loaded(server, bench, || match initiator {
        Some(reference) => reference_load(bench, reference, port, &plan),
        None => load::ours(bench, port, &plan),
    })
}

/// Runs a load against a server and adds what the load cost the server.
pub(super) fn loaded(
    server: &mut Server,
    bench: &Bench,
    run: impl FnOnce() -> Result<load::Measured, String>,
) -> Result<Measured, String> {
    let (busy, cpu) = (server.busy_seconds()?, server.cpu_seconds()?);
    let began = std::time::Instant::now();
    let reported = run()?;
    let elapsed = began.elapsed().as_secs_f64();
    let (busy, cpu) = (server.busy_seconds()? - busy, server.cpu_seconds()? - cpu);
    let ios = reported.iops * f64::from(bench.seconds);
    // Subtract the time that a polled server spins while the initiator starts, because it does not belong to the I/O.
    let share = match server.side {
        Side::Ours => 1.0,
        Side::Reference => f64::from(bench.seconds) / elapsed,
    };
    Ok(Measured {
        iops: reported.iops,
        p99_us: reported.p99_us,
        p99_9_us: reported.p99_9_us,
        busy_us: busy * 1e6 / ios,
        cpu_us: cpu * share * 1e6 / ios,
    })
}

/// Runs the reference's initiator.
fn reference_load(
    bench: &Bench,
    reference: &Reference,
    port: u16,
    plan: &load::Plan,
) -> Result<load::Measured, String> {
    let mut command = reference.nvme_perf();
    let address = format!(
        "trtype:TCP adrfam:IPv4 traddr:{ADDRESS} trsvcid:{port} subnqn:{} hostnqn:{HOST_NQN}",
        plan.nqn
    );
    let depth = plan.depth * plan.connections;
    command.args(["-r", &address, "-q", &depth.to_string(), "-o", &plan.io_size.to_string()]);
    command.args(["-w", if plan.write { "randwrite" } else { "randread" }]);
    command.args(["-t", &bench.seconds.to_string(), "-P", &plan.connections.to_string()]);
    // The initiator distributes its depth over the queues as they answer, so a queue may get no request and fail the run.
    let mut tried = super::case::output(&mut command);
    for _ in 0..TRIES {
        if tried.is_ok() {
            break;
        }
        tried = super::case::output(&mut command);
    }
    let text = tried?;
    of_text(&text).ok_or_else(|| format!("spdk_nvme_perf printed no rate: {text}"))
}

/// Reads rate and latencies from the output of the reference's initiator.
fn of_text(text: &str) -> Option<load::Measured> {
    let total = text.lines().find_map(|line| line.trim().strip_prefix("Total"))?;
    let iops = total.split(':').nth(1)?.split_whitespace().next()?.parse().ok()?;
    let quantile = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        line.trim_start_matches([' ', ':']).strip_suffix("us")?.parse().ok()
    };
    Some(load::Measured {
        iops,
        p99_us: quantile("99.00000%")?,
        p99_9_us: quantile("99.90000%")?,
        p50_us: quantile("50.00000%")?,
    })
}

/// Reads the output of our initiator.
pub(super) fn of_json(reported: &Value) -> Option<load::Measured> {
    let number = |pointer: &str| reported.pointer(pointer).and_then(Value::as_f64);
    Some(load::Measured {
        iops: number("/iops")?,
        p50_us: number("/latency_us/p50")?,
        p99_us: number("/latency_us/p99")?,
        p99_9_us: number("/latency_us/p99_9")?,
    })
}
