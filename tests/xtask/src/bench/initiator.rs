//! The NVMe/TCP initiator. One target runs on the second core, and the initiators of both sides alternate on the first core. The bench
//! also measures a relay, which is target and initiator at once, and the longest I/O when the target of one of two paths is killed.

use super::case::perf_arguments;
use super::load::{self, Plan};
use super::rates::{bdevperf, perf, report};
use super::samples::{Samples, ratio};
use super::server::{ADDRESS, Server};
use super::{Bench, Side, table};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;

const NQN: &str = "nqn.2026-01.io.drivebay:bench";
const RELAY: &str = "nqn.2026-01.io.drivebay:relay";
const UUID: &str = "6f9d7b1c-52a4-4a6b-9a2e-3f2f0c1d9e10";
const SIZES: [(&str, &str); 2] = [("4 KiB", "4096"), ("128 KiB", "131072")];
const DEPTHS: [u32; 3] = [1, 32, 128];
/// The core of the target. The initiator has the other one.
const TARGET_CORE: &str = "0x2";
/// Keep alive timeout of the paths, in milliseconds. The initiator notices a silent target after at most one and a half timeouts.
const KEEP_ALIVE_MS: u32 = 2000;
/// How long a write waits after its target has closed the connection, in milliseconds: `docs/nvme.md`.
const QUIET_MS: u32 = 2000;

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    rates(bench)?;
    relay(bench)?;
    failover(bench)
}

fn attach(port: u16) -> (&'static str, Value) {
    let params = json!({"name": "Nvme0", "trtype": "TCP", "adrfam": "IPv4", "traddr": ADDRESS,
        "trsvcid": port.to_string(), "subnqn": NQN, "ctrlr_loss_timeout_sec": 60, "reconnect_delay_sec": 1});
    ("bdev_nvme_attach_controller", params)
}

/// A target of ours with one disk, whose identity is always the same.
fn target(bench: &Bench, first_cntlid: u16) -> Result<Server, String> {
    let mut target = Server::start(bench, Side::Ours, TARGET_CORE)?;
    let disk = json!({"name": "disk", "num_blocks": 65536, "block_size": 512, "uuid": UUID});
    target.call("bdev_malloc_create", &disk)?;
    target.create_transport()?;
    let subsystem = json!({"nqn": NQN, "allow_any_host": true, "serial_number": "BENCH",
        "min_cntlid": first_cntlid, "max_cntlid": first_cntlid + 999});
    target.call("nvmf_create_subsystem", &subsystem)?;
    target
        .call("nvmf_subsystem_add_ns", &json!({"nqn": NQN, "namespace": {"bdev_name": "disk"}}))?;
    let address = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": ADDRESS, "trsvcid": target.port.to_string()});
    target.call("nvmf_subsystem_add_listener", &json!({"nqn": NQN, "listen_address": address}))?;
    Ok(target)
}

fn rates(bench: &Bench) -> Result<(), String> {
    table::begin(
        "NVMe/TCP initiator: I/O per second of one core, one target of ours beside it",
        &["I/O", "size", "depth", "ours", "reference", "ratio"],
    );
    let target = target(bench, 1)?;
    let calls = [attach(target.port)];
    for pattern in ["randread", "randwrite"] {
        for (size, bytes) in SIZES {
            for depth in DEPTHS {
                let mut ours = perf_arguments(pattern, depth, "Nvme0n1", &calls);
                ours.extend(["-o", bytes].map(str::to_owned));
                let theirs = ["-o", bytes, "-w", pattern, "-m", "0x1", "-T", "Nvme0n1"];
                let [mut of_ours, mut of_theirs] = [(); 2].map(|()| Samples::default());
                for _ in 0..bench.rounds {
                    for side in bench.sides() {
                        match side {
                            Side::Ours => of_ours.push(perf(bench, &ours)?),
                            Side::Reference => {
                                of_theirs.push(bdevperf(bench, &calls, &theirs, depth)?);
                            }
                        }
                    }
                }
                let row = [pattern.to_owned(), size.to_owned(), depth.to_string()];
                let figures = [of_ours.text(), of_theirs.text(), ratio(&of_ours, &of_theirs)];
                table::row(row.into_iter().chain(figures));
            }
        }
    }
    Ok(())
}

/// Starts a relay, which exports the disk of the target. SIGSTOP holds it while the other side's relay is measured.
fn relay(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Relay (target, initiator, target): 4 KiB reads per second, one connection",
        &["depth", "ours", "reference", "ratio"],
    );
    let target = target(bench, 1)?;
    let mut relays = Vec::new();
    for side in bench.sides() {
        let mut relay = Server::start(bench, side, "0x1")?;
        let (method, params) = attach(target.port);
        relay.call(method, &params)?;
        relay.create_transport()?;
        relay.export(RELAY, &["Nvme0n1".to_owned()])?;
        relay.process.signal("STOP")?;
        relays.push((side, relay));
    }
    for depth in DEPTHS {
        let [mut of_ours, mut of_theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..bench.rounds {
            for (side, relay) in &mut relays {
                relay.process.signal("CONT")?;
                let (nqn, connections) = (RELAY.to_owned(), 1);
                let plan =
                    Plan { nqn, nsid: 1, connections, idle: 0, depth, io_size: 4096, write: false };
                let reported = load::ours(bench, relay.port, &plan);
                relay.process.signal("STOP")?;
                let samples = if *side == Side::Ours { &mut of_ours } else { &mut of_theirs };
                samples.push(reported?.iops);
            }
        }
        let figures = [of_ours.text(), of_theirs.text(), ratio(&of_ours, &of_theirs)];
        table::row([depth.to_string()].into_iter().chain(figures));
    }
    Ok(())
}

/// Returns the longest I/O of a run during which the target of the first of two paths is killed, or is only stopped. No I/O may fail.
fn failover(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Failover: two paths, depth 32, the target of the first one ends: longest I/O, ms (ours)",
        &["I/O", "the target", "detection", "wait before it is sent again", "longest I/O"],
    );
    for (pattern, signal, detection_ms, quiet_ms) in [
        ("randread", "KILL", 0, 0),
        ("randwrite", "KILL", 0, QUIET_MS),
        ("randread", "STOP", KEEP_ALIVE_MS * 3 / 2, 0),
    ] {
        let mut longest = Samples::default();
        for _ in 0..bench.rounds {
            longest.push(longest_ms(bench, pattern, signal)?);
        }
        let what = if signal == "KILL" { "is killed" } else { "says nothing" };
        let row =
            [pattern.to_owned(), what.to_owned(), detection_ms.to_string(), quiet_ms.to_string()];
        table::row(row.into_iter().chain([longest.text()]));
    }
    Ok(())
}

fn longest_ms(bench: &Bench, pattern: &str, signal: &str) -> Result<f64, String> {
    // Each target has its own disk. That is enough, because the run does not compare data.
    let targets = [target(bench, 1)?, target(bench, 1001)?];
    let options = json!({"keep_alive_timeout_ms": KEEP_ALIVE_MS});
    let mut calls = vec![("bdev_nvme_set_options", options)];
    calls.extend(targets.iter().map(|target| attach(target.port)));
    let mut command = bench.perf(&perf_arguments(pattern, 32, "Nvme0n1", &calls));
    command.args(["-t", "8", "--warm-up", "0.1"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let running = command.spawn().map_err(|error| format!("drivebay perf: {error}"))?;
    std::thread::sleep(Duration::from_secs(2));
    let [first, _] = &targets;
    first.process.signal(signal)?;
    let output = running.wait_with_output().map_err(|error| format!("drivebay perf: {error}"))?;
    if signal == "STOP" {
        first.process.signal("CONT")?;
    }
    if !output.status.success() {
        return Err(format!("{pattern}, {signal}: an I/O failed"));
    }
    let report = report(&String::from_utf8_lossy(&output.stdout))?;
    let longest = report.pointer("/total/latency_us/max").and_then(Value::as_f64);
    longest.map(|us| us / 1000.0).ok_or_else(|| "drivebay perf reported no longest I/O".to_owned())
}
