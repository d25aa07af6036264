//! vhost-user block devices. Both sides run on the first core, and so does qemu-storage-daemon if it is installed. The front
//! end, `drivebay perf` with the plugin `virtio`, runs on the second core. The bench stops all other servers with SIGSTOP.

use super::nvmf::{Measured, loaded};
use super::process::Running;
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, case, load, rates, report, table};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BLOCKS: u64 = 65536;
const BLOCK_LEN: u64 = 512;
/// Number of disks of each kind. Each has its own socket.
const DISKS: usize = 4;
/// Entries of a queue. All back ends support this size.
const QUEUE: u32 = 512;
/// How long qemu-storage-daemon may take to create its sockets.
const PATIENCE: Duration = Duration::from_secs(5);

/// One row of the table.
struct Load {
    kind: &'static str,
    disks: usize,
    /// Queue depth of each disk.
    depth: u32,
}

const LOADS: [Load; 8] = [
    Load { kind: "null", disks: 1, depth: 1 },
    Load { kind: "null", disks: 1, depth: 32 },
    Load { kind: "null", disks: 1, depth: 128 },
    Load { kind: "null", disks: 4, depth: 32 },
    Load { kind: "malloc", disks: 1, depth: 1 },
    Load { kind: "malloc", disks: 1, depth: 32 },
    Load { kind: "malloc", disks: 1, depth: 128 },
    Load { kind: "malloc", disks: 4, depth: 32 },
];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let mut servers = Vec::new();
    for side in bench.sides() {
        servers.push(started(bench, side)?);
    }
    let daemon = Daemon::start();
    if let Err(why) = &daemon {
        report::line(&format!("\nqemu-storage-daemon: not measured: {why}"));
    }
    table::begin(
        "vhost-user-blk, random reads of 4 KiB by our own front end, one queue for each disk",
        &[
            "disk, disks, depth of each",
            "IOPS, ours",
            "reference",
            "ratio",
            "qemu-storage-daemon",
            "ours ÷ qemu-storage-daemon",
            "busy µs per I/O, ours",
            "reference",
            "its ÷ ours",
        ],
    );
    for load in &LOADS {
        let name = format!("{}, {}, {}", load.kind, load.disks, load.depth);
        match line(bench, &mut servers, daemon.as_ref().ok(), load) {
            Ok(cells) => table::row([vec![name], cells].concat()),
            Err(why) => table::row([format!("{name}: not measured: {why}")]),
        }
    }
    Ok(())
}

fn line(
    bench: &Bench,
    servers: &mut [Server],
    daemon: Option<&Daemon>,
    load: &Load,
) -> Result<Vec<String>, String> {
    let [mut ours, mut theirs, mut of_daemon] = [(); 3].map(|()| Samples::default());
    let [mut our_busy, mut their_busy] = [(); 2].map(|()| Samples::default());
    for _ in 0..bench.rounds {
        for server in servers.iter_mut() {
            server.process.signal("CONT")?;
            let folder = server.folder().to_owned();
            let one = loaded(server, bench, || perf(bench, &folder, load));
            server.process.signal("STOP")?;
            let Measured { iops, busy_us, .. } = one?;
            let (rate, busy) = match server.side {
                Side::Ours => (&mut ours, &mut our_busy),
                Side::Reference => (&mut theirs, &mut their_busy),
            };
            rate.push(iops);
            busy.push(busy_us);
        }
        if let Some(daemon) = daemon {
            daemon.process.signal("CONT")?;
            let one = perf(bench, &daemon.folder.0, load);
            daemon.process.signal("STOP")?;
            of_daemon.push(one?.iops);
        }
    }
    Ok(vec![
        ours.text(),
        theirs.text(),
        ratio(&ours, &theirs),
        of_daemon.text(),
        ratio(&ours, &of_daemon),
        our_busy.text(),
        their_busy.text(),
        ratio(&their_busy, &our_busy),
    ])
}

fn started(bench: &Bench, side: Side) -> Result<Server, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    for kind in ["null", "malloc"] {
        for number in 0..DISKS {
            let name = format!("{kind}{number}");
            let disk = json!({"name": name, "num_blocks": BLOCKS, "block_size": BLOCK_LEN});
            server.call(&format!("bdev_{kind}_create"), &disk)?;
            let controller = json!({"ctrlr": format!("{name}.sock"), "dev_name": name});
            server.call("vhost_create_blk_controller", &controller)?;
        }
    }
    server.process.signal("STOP")?;
    Ok(server)
}

/// One run of the front end against the sockets in a folder.
fn perf(bench: &Bench, folder: &Path, load: &Load) -> Result<load::Measured, String> {
    let attach = |number: usize| -> (&str, Value) {
        let socket = folder.join(format!("{}{number}.sock", load.kind));
        let params = json!({"name": format!("V{number}"), "trtype": "user", "dev_type": "blk",
            "traddr": socket, "vq_count": 1, "vq_size": QUEUE});
        ("bdev_virtio_attach_controller", params)
    };
    let calls: Vec<_> = (0..load.disks).map(attach).collect();
    let mut arguments = case::perf_arguments("randread", load.depth, "V0", &calls);
    arguments.extend((1..load.disks).map(|number| format!("V{number}")));
    arguments.extend(["-m".to_owned(), "0x2".to_owned()]);
    let iops = rates::perf(bench, &arguments)?;
    Ok(load::Measured { iops, p50_us: 0.0, p99_us: 0.0, p99_9_us: 0.0 })
}

/// QEMU's back end, with its null disks and, instead of RAM disks, files in the page cache.
struct Daemon {
    process: Running,
    folder: Folder,
}

impl Daemon {
    fn start() -> Result<Self, String> {
        let folder = Folder::new()?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "qemu-storage-daemon"]);
        let mut sockets = Vec::new();
        for number in 0..DISKS {
            let null = format!(
                "driver=null-co,node-name=null{number},read-zeroes=on,size={}",
                BLOCKS * BLOCK_LEN
            );
            command.args(["--blockdev", &null]);
            let file = folder.0.join(format!("disk{number}"));
            std::fs::File::create_new(&file)
                .and_then(|file| file.set_len(BLOCKS * BLOCK_LEN))
                .map_err(|error| format!("{}: {error}", file.display()))?;
            let disk = format!("driver=file,node-name=malloc{number},filename={}", file.display());
            command.args(["--blockdev", &disk]);
            for kind in ["null", "malloc"] {
                let socket = folder.0.join(format!("{kind}{number}.sock"));
                let export = format!(
                    "type=vhost-user-blk,id={kind}{number},node-name={kind}{number},writable=on,addr.type=unix,addr.path={}",
                    socket.display()
                );
                command.args(["--export", &export]);
                sockets.push(socket);
            }
        }
        let mut process = Running::start(&mut command)?;
        let began = Instant::now();
        while !sockets.iter().all(|socket: &PathBuf| socket.exists()) {
            if process.has_ended() || began.elapsed() > PATIENCE {
                return Err("it created no sockets".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        process.signal("STOP")?;
        Ok(Self { process, folder })
    }
}
