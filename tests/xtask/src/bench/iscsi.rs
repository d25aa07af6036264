//! The iSCSI target. Both sides run on the first core, and so does tgt where it is installed. libiscsi's `iscsi-perf`, which
//! only reads, runs on the second. Each server has one RAM disk. All servers run all the time; SIGSTOP holds those that are
//! not measured.

use super::nvmf::{Measured, loaded};
use super::process::Running;
use super::samples::{Samples, ratio};
use super::server::{ADDRESS, Folder, Server};
use super::{Bench, Side, case, load, report, table};
use crate::run;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-01.io.drivebay:bench";
const BLOCKS: u64 = 65536;
const BLOCK_LEN: u32 = 512;
/// Sessions without I/O.
const SESSIONS: u8 = 100;
/// Duration of each measurement of the idle sessions.
const WATCHED: Duration = Duration::from_secs(3);
/// Longest wait for tgt's first answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A load to measure.
struct Load {
    blocks: u32,
    depth: u32,
    random: bool,
}

const LOADS: [Load; 4] = [
    Load { blocks: 8, depth: 1, random: true },
    Load { blocks: 8, depth: 32, random: true },
    Load { blocks: 8, depth: 128, random: true },
    Load { blocks: 256, depth: 16, random: false },
];

/// Figures of one side.
#[derive(Default)]
struct Figures {
    iops: Samples,
    busy: Samples,
}

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let mut servers = Vec::new();
    for side in bench.sides() {
        servers.push(started(bench, side)?);
    }
    let tgt = Tgt::start();
    if let Err(why) = &tgt {
        report::line(&format!("\ntgt: not measured: {why}"));
    }
    table::begin(
        "iSCSI target, reads of a malloc disk by iscsi-perf",
        &[
            "load, depth",
            "IOPS, ours",
            "reference",
            "ratio",
            "tgt",
            "ours ÷ tgt",
            "busy µs per I/O, ours",
            "reference",
            "its ÷ ours",
        ],
    );
    for load in &LOADS {
        if let Err(why) = line(bench, &mut servers, tgt.as_ref().ok(), load) {
            table::row([format!("depth {}: not measured: {why}", load.depth)]);
        }
    }
    idle(bench, &servers)
}

fn line(
    bench: &Bench,
    servers: &mut [Server],
    tgt: Option<&Tgt>,
    load: &Load,
) -> Result<(), String> {
    let [mut ours, mut theirs] = [(); 2].map(|()| Figures::default());
    let mut of_tgt = Samples::default();
    for _ in 0..bench.rounds {
        for server in servers.iter_mut() {
            server.process.signal("CONT")?;
            let port = server.port;
            let one = loaded(server, bench, || perf(bench, port, 0, load));
            server.process.signal("STOP")?;
            let Measured { iops, busy_us, .. } = one?;
            let side = if server.side == Side::Ours { &mut ours } else { &mut theirs };
            side.iops.push(iops);
            side.busy.push(busy_us);
        }
        if let Some(tgt) = tgt {
            tgt.process.signal("CONT")?;
            let one = perf(bench, tgt.port, 1, load);
            tgt.process.signal("STOP")?;
            of_tgt.push(one?.iops);
        }
    }
    let order = if load.random { "random" } else { "sequential" };
    table::row([
        format!("{} KiB {order}, {}", load.blocks * BLOCK_LEN / 1024, load.depth),
        ours.iops.text(),
        theirs.iops.text(),
        ratio(&ours.iops, &theirs.iops),
        of_tgt.text(),
        ratio(&ours.iops, &of_tgt),
        ours.busy.text(),
        theirs.busy.text(),
        ratio(&theirs.busy, &ours.busy),
    ]);
    Ok(())
}

/// Measures the processor time of idle sessions, in percent of a core.
fn idle(bench: &Bench, servers: &[Server]) -> Result<(), String> {
    let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
    for server in servers {
        server.process.signal("CONT")?;
        let _sessions = (0..SESSIONS)
            .map(|number| session(server.port, number))
            .collect::<Result<Vec<_>, _>>()?;
        for _ in 0..bench.rounds {
            let (before, began) = (server.cpu_seconds()?, Instant::now());
            std::thread::sleep(WATCHED);
            let share = (server.cpu_seconds()? - before) * 100.0 / began.elapsed().as_secs_f64();
            if server.side == Side::Ours { &mut ours } else { &mut theirs }.push(share);
        }
        server.process.signal("STOP")?;
    }
    table::begin("iSCSI, 100 idle sessions", &["what", "ours", "reference", "its ÷ ours"]);
    table::row(["percent of a core", &ours.text(), &theirs.text(), &ratio(&theirs, &ours)]);
    Ok(())
}

fn started(bench: &Bench, side: Side) -> Result<Server, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    let disk = json!({"name": "malloc", "num_blocks": BLOCKS, "block_size": BLOCK_LEN});
    server.call("bdev_malloc_create", &disk)?;
    let portal = json!({"host": ADDRESS, "port": server.port.to_string()});
    server.call("iscsi_create_portal_group", &json!({"tag": 1, "portals": [portal]}))?;
    let initiators = json!({"tag": 1, "initiators": ["ANY"], "netmasks": ["127.0.0.0/8"]});
    server.call("iscsi_create_initiator_group", &initiators)?;
    let target = json!({
        "name": TARGET,
        "alias_name": "bench",
        "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 1}],
        "luns": [{"bdev_name": "malloc", "lun_id": 0}],
        "queue_depth": 128,
        "disable_chap": true,
    });
    server.call("iscsi_create_target_node", &target)?;
    server.process.signal("STOP")?;
    Ok(server)
}

/// One run of libiscsi's load generator.
fn perf(bench: &Bench, port: u16, lun: u8, load: &Load) -> Result<load::Measured, String> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "iscsi-perf", "-t", &bench.seconds.to_string()]);
    command.args(["-m", &load.depth.to_string(), "-b", &load.blocks.to_string()]);
    if load.random {
        command.arg("-r");
    }
    command.arg(format!("iscsi://{ADDRESS}:{port}/{TARGET}/{lun}"));
    let text = case::output(&mut command)?;
    let iops = average(&text).ok_or_else(|| format!("iscsi-perf printed no rate: {text}"))?;
    Ok(load::Measured { iops, p50_us: 0.0, p99_us: 0.0, p99_9_us: 0.0 })
}

/// The rate of the whole run: the last average that `iscsi-perf` prints.
fn average(text: &str) -> Option<f64> {
    let (_, reported) = text.rsplit_once("iops average ")?;
    reported.split_whitespace().next()?.parse().ok()
}

/// Logs in as one of many initiators, with one request. RFC 7143, sections 11.12 and 11.13.
fn session(port: u16, number: u8) -> Result<TcpStream, String> {
    let text = format!(
        "InitiatorName=iqn.2026-01.io.drivebay:idle{number}\0SessionType=Normal\0TargetName={TARGET}\0"
    );
    let mut request = [0; 48];
    // Login, immediate; from operational negotiation to full feature phase; ISID; initiator task tag.
    (request[0], request[1], request[8], request[13]) = (0x43, 0x87, 0x80, number);
    request[7] = u8::try_from(text.len()).map_err(|error| error.to_string())?;
    let mut request = request.to_vec();
    request.extend(text.as_bytes());
    request.resize(request.len().next_multiple_of(4), 0);
    let login = || -> std::io::Result<(TcpStream, [u8; 48])> {
        let mut stream = TcpStream::connect((ADDRESS, port))?;
        stream.write_all(&request)?;
        let mut answer = [0; 48];
        stream.read_exact(&mut answer)?;
        Ok((stream, answer))
    };
    let (stream, answer) = login().map_err(|error| format!("session {number}: {error}"))?;
    // The status class, and the bit that says that the session is in full feature phase.
    match (answer[36], answer[1] & 0x80) {
        (0, 0x80) => Ok(stream),
        (0, _) => Err(format!("session {number}: the target wants to negotiate further")),
        (class, _) => Err(format!("session {number}: the target refused the login: class {class}")),
    }
}

/// tgt, with a file in memory behind its unit.
struct Tgt {
    process: Running,
    port: u16,
    _disk: Folder,
}

impl Tgt {
    fn start() -> Result<Self, String> {
        if !run::succeeds(Command::new("tgtd").arg("--version")) {
            return Err("it is not installed (Debian's package tgt)".to_owned());
        }
        let free = TcpListener::bind((ADDRESS, 0)).and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        let folder = Folder::in_memory()?;
        let file = folder.0.join("disk");
        std::fs::File::create_new(&file)
            .and_then(|file| file.set_len(BLOCKS * u64::from(BLOCK_LEN)))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        // The number of its control socket. Use half of the port, which is below 32768, because tgt may keep the number in a signed 16-bit
        // integer.
        let control = (port / 2).to_string();
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "tgtd", "-f", "-C", &control, "--iscsi"]);
        command.arg(format!("portal={ADDRESS}:{port}"));
        let mut process = Running::start(&mut command)?;
        let admin = |args: &[&str]| {
            let mut command = Command::new("tgtadm");
            command.args(["-C", &control, "--lld", "iscsi", "--tid", "1"]).args(args);
            case::output(&mut command)
        };
        let began = Instant::now();
        while let Err(why) = admin(&["--op", "new", "--mode", "target", "-T", TARGET]) {
            if process.has_ended() || began.elapsed() > PATIENCE {
                return Err(why);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let file = file.to_string_lossy();
        admin(&["--op", "new", "--mode", "logicalunit", "--lun", "1", "-b", &file])?;
        admin(&["--op", "bind", "--mode", "target", "-I", "ALL"])?;
        process.signal("STOP")?;
        Ok(Self { process, port, _disk: folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_is_the_rate() {
        let text =
            "\riops current 5 (2 MB/s), iops average 522 (2 MB/s)\riops average 532 (2 MB/s)  \n";
        assert_eq!(average(text), Some(532.0));
        assert_eq!(average("finished."), None);
    }
}
