//! NBD: `nbdcopy` on the second core reads and writes a whole disk. Our server and nbdkit's memory plugin take turns on the first
//! core; the bench stops the other one with SIGSTOP.

use super::process::Running;
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, report, table};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BLOCK_LEN: u64 = 512;
/// Size of the disk, in bytes. `nbdcopy` moves all of it.
const DISK_LEN: u64 = 256 << 20;
/// How long nbdkit may take to create its socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// One row of the table.
struct Copy {
    name: &'static str,
    /// Arguments of `nbdcopy`, without source and destination.
    arguments: &'static [&'static str],
    writes: bool,
}

const COPIES: [Copy; 4] = [
    Copy { name: "read, one connection", arguments: &["--connections=1"], writes: false },
    Copy { name: "read, four connections", arguments: &["--connections=4"], writes: false },
    Copy { name: "write, one connection", arguments: &["--connections=1"], writes: true },
    Copy {
        name: "read in requests of 4 KiB, one at a time",
        arguments: &["--connections=1", "--requests=1", "--request-size=4096"],
        writes: false,
    },
];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let ours = started(bench)?;
    let nbdkit = Nbdkit::start();
    if let Err(why) = &nbdkit {
        report::line(&format!("\nnbdkit: not measured: {why}"));
    }
    table::begin(
        "NBD, a RAM disk of 256 MiB copied by nbdcopy over a Unix socket",
        &["copy", "MiB/s, ours", "nbdkit memory", "ratio"],
    );
    for copy in &COPIES {
        match line(bench, &ours, nbdkit.as_ref().ok(), copy) {
            Ok(cells) => table::row([vec![copy.name.to_owned()], cells].concat()),
            Err(why) => table::row([format!("{}: not measured: {why}", copy.name)]),
        }
    }
    Ok(())
}

fn line(
    bench: &Bench,
    ours: &Server,
    nbdkit: Option<&Nbdkit>,
    copy: &Copy,
) -> Result<Vec<String>, String> {
    let (mut our_rate, mut their_rate) = (Samples::default(), Samples::default());
    for _ in 0..bench.rounds {
        our_rate.push(mib_per_second(&ours.process, &socket(ours.folder()), copy)?);
        if let Some(nbdkit) = nbdkit {
            their_rate.push(mib_per_second(&nbdkit.process, &socket(&nbdkit.folder.0), copy)?);
        }
    }
    Ok(vec![our_rate.text(), their_rate.text(), ratio(&our_rate, &their_rate)])
}

/// One copy, while only its server runs.
fn mib_per_second(server: &Running, socket: &Path, copy: &Copy) -> Result<f64, String> {
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "nbdcopy"]).args(copy.arguments);
    if copy.writes {
        if !has_nbdkit() {
            return Err("its source is nbdkit's pattern plugin, which is not installed".to_owned());
        }
        // Data without zeroes, because nbdcopy does not write those.
        command.args(["--", "[", "nbdkit", "pattern", &DISK_LEN.to_string(), "]", &uri]);
    } else {
        command.args([uri.as_str(), "null:"]);
    }
    server.signal("CONT")?;
    let began = Instant::now();
    let done = command.stdin(Stdio::null()).output();
    let seconds = began.elapsed().as_secs_f64();
    server.signal("STOP")?;
    let done = done.map_err(|error| format!("nbdcopy: {error}"))?;
    if !done.status.success() {
        return Err(format!("nbdcopy: {}", String::from_utf8_lossy(&done.stderr).trim()));
    }
    #[expect(clippy::cast_precision_loss, reason = "the size is far below 2^52")]
    let mib = (DISK_LEN >> 20) as f64;
    Ok(mib / seconds)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("nbd.sock")
}

fn started(bench: &Bench) -> Result<Server, String> {
    let mut server = Server::start(bench, Side::Ours, "0x1")?;
    let disk = json!({"name": "disk", "num_blocks": DISK_LEN / BLOCK_LEN, "block_size": BLOCK_LEN});
    server.call("bdev_malloc_create", &disk)?;
    let path = socket(server.folder());
    server.call("nbd_create_server", &json!({"name": "s0", "path": path}))?;
    server.call("nbd_server_add_export", &json!({"server": "s0", "bdev_name": "disk"}))?;
    server.process.signal("STOP")?;
    Ok(server)
}

fn has_nbdkit() -> bool {
    let shown = Command::new("nbdkit").arg("--version").stdout(Stdio::null()).status();
    shown.is_ok_and(|status| status.success())
}

/// nbdkit with its memory plugin.
struct Nbdkit {
    process: Running,
    folder: Folder,
}

impl Nbdkit {
    fn start() -> Result<Self, String> {
        if !has_nbdkit() {
            return Err("it is not installed (Debian's package nbdkit)".to_owned());
        }
        let folder = Folder::new()?;
        let socket = socket(&folder.0);
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "nbdkit", "--foreground", "--exit-with-parent", "--unix"]);
        command.arg(&socket).args(["memory", &DISK_LEN.to_string()]);
        let mut process = Running::start(&mut command)?;
        let began = Instant::now();
        while !socket.exists() {
            if process.has_ended() || began.elapsed() > PATIENCE {
                return Err("it created no socket".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        process.signal("STOP")?;
        Ok(Self { process, folder })
    }
}
