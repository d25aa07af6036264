//! A running server of either side, by default on the first core.

use super::client::Client;
use super::process::{self, Running};
use super::{Bench, Side, case};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to answer its first call.
const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const ADDRESS: &str = "127.0.0.1";

/// The server, its socket and its folder. Dropping the value ends the server and removes the
/// folder.
pub(super) struct Server {
    pub(super) side: Side,
    pub(super) process: Running,
    pub(super) port: u16,
    pub(super) client: Client,
    /// The time from its start to its first answer.
    pub(super) started_in: Duration,
    folder: Folder,
}

impl Server {
    /// Starts the server and waits until it answers. `cpumask` is `0x1` or `0x3`.
    pub(super) fn start(bench: &Bench, side: Side, cpumask: &str) -> Result<Self, String> {
        let folder = Folder::new()?;
        let command = match side {
            Side::Ours => ours(bench, &folder),
            Side::Reference => bench.reference()?.target(),
        };
        Self::run(command, side, cpumask, folder)
    }

    /// Starts our server under callgrind, which writes to `out` at the end.
    pub(super) fn start_counted(bench: &Bench, out: &Path) -> Result<Self, String> {
        let folder = Folder::new()?;
        let server = ours(bench, &folder);
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--collect-bus=yes"]);
        valgrind.arg(format!("--callgrind-out-file={}", out.display()));
        valgrind.arg(server.get_program()).args(server.get_args());
        valgrind.env("DRIVEBAY_RUNTIME", &folder.0);
        Self::run(valgrind, Side::Ours, "0x1", folder)
    }

    fn run(
        mut command: Command,
        side: Side,
        cpumask: &str,
        folder: Folder,
    ) -> Result<Self, String> {
        let socket = folder.0.join("rpc.sock");
        command.args(["-m", cpumask, "-r"]).arg(&socket);
        // The folder of vhost sockets.
        command.arg("-S").arg(&folder.0);
        let began = Instant::now();
        let mut process = Running::start(&mut command)?;
        let mut client = loop {
            match Client::connect(&socket) {
                Ok(client) => break client,
                Err(_) if process.has_ended() => return Err(format!("{side:?}: the server ended")),
                Err(why) if began.elapsed() > PATIENCE => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        };
        client.call("spdk_get_version", &Value::Null)?;
        let started_in = began.elapsed();
        Ok(Self { side, process, port: free_port()?, client, started_in, folder })
    }

    pub(super) fn call(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        self.client.call(method, params)
    }

    /// The server's own folder for files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Creates the TCP transport with its defaults.
    pub(super) fn create_transport(&mut self) -> Result<(), String> {
        self.call("nvmf_create_transport", &json!({"trtype": "TCP"})).map(drop)
    }

    /// Exports bdevs as namespaces 1, 2, … of a subsystem at [`Self::port`].
    pub(super) fn export(&mut self, nqn: &str, bdevs: &[String]) -> Result<(), String> {
        let most = bdevs.len().max(32);
        let subsystem = json!({"nqn": nqn, "allow_any_host": true, "serial_number": "BENCH", "max_namespaces": most});
        self.call("nvmf_create_subsystem", &subsystem)?;
        for bdev in bdevs {
            let namespace = json!({"nqn": nqn, "namespace": {"bdev_name": bdev}});
            self.call("nvmf_subsystem_add_ns", &namespace)?;
        }
        let listener = json!({"nqn": nqn, "listen_address":
            {"trtype": "TCP", "adrfam": "IPv4", "traddr": ADDRESS, "trsvcid": self.port.to_string()}});
        self.call("nvmf_subsystem_add_listener", &listener).map(drop)
    }

    /// Processor time so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64, String> {
        process::cpu_seconds(self.process.id())
    }

    /// Time of its reactors' rounds with work, in seconds.
    pub(super) fn busy_seconds(&mut self) -> Result<f64, String> {
        let reported = self.call("framework_get_reactors", &Value::Null)?;
        let rate = reported.get("tick_rate").and_then(Value::as_f64);
        let reactors = reported.get("reactors").and_then(Value::as_array);
        let (Some(rate), Some(reactors)) = (rate, reactors) else {
            return Err("framework_get_reactors: no tick_rate or no reactors".to_owned());
        };
        let busy = reactors.iter().filter_map(|reactor| reactor.get("busy")?.as_f64());
        Ok(busy.sum::<f64>() / rate)
    }
}

fn ours(bench: &Bench, folder: &Folder) -> Command {
    let mut command = Command::new(case::program());
    command.arg("serve").arg("--plugin-dir").arg(case::folder());
    command.env("DRIVEBAY_RUNTIME", &folder.0);
    if !bench.huge {
        command.arg("--no-huge");
    }
    command
}

/// A folder. Dropping the value removes it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        Self::below(&std::env::temp_dir())
    }

    /// A folder in memory.
    pub(super) fn in_memory() -> Result<Self, String> {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(parent: &Path) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("drivebay-bench-{}-{number}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind((ADDRESS, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("{ADDRESS}: {error}"))
}
