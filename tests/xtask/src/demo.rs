//! `cargo xtask demo`: two disks on NVMe/TCP from one command, checked, and served until Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::prepare::{self, Need};
use crate::{Failure, Outcome, check, run};

/// How long the host may take to answer its first call, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port of NVMe/TCP's I/O controllers; the next free one is taken when it is in use.
const PORT: u16 = 4420;
/// How much of each disk is written and verified, in bytes.
const CHECKED: u64 = 32 << 20;
const ADDRESS: &str = "127.0.0.1";

/// A disk of the demo: its bdev, made by an RPC call, and the subsystem that exports it.
struct Disk {
    bdev: &'static str,
    nqn: &'static str,
    serial: &'static str,
}

const RAM: Disk = Disk { bdev: "Ram0", nqn: "nqn.2026-01.io.drivebay:ram", serial: "DEMORAM" };
const FILE: Disk = Disk { bdev: "File0", nqn: "nqn.2026-01.io.drivebay:file", serial: "DEMOFILE" };

pub(crate) fn main(args: &[&str]) -> Outcome {
    let once = match args {
        [] => false,
        ["--once"] => true,
        [other, ..] => return Err(Failure::usage("demo", other, "--once")),
    };
    if let Some(reason) = prepare::prepare(&[Need::Build]).reason(Need::Build) {
        return Err(reason.into());
    }
    run::must(&mut run::cargo(&["build", "--release", "--workspace"]))?;

    let mut host = Host::start()?;
    let backing = host.folder.join("file0.img");
    create_sparse(&backing, 64 << 20)?;
    host.rpc("bdev_malloc_create", r#"{"name":"Ram0","num_blocks":131072,"block_size":512}"#)?;
    host.rpc(
        "bdev_aio_create",
        &format!(r#"{{"name":"File0","filename":"{}","block_size":512}}"#, backing.display()),
    )?;
    host.rpc("nvmf_create_transport", r#"{"trtype":"TCP"}"#)?;
    for disk in [&RAM, &FILE] {
        host.export(disk)?;
    }
    let port = host.port;
    let address = ([127, 0, 0, 1], port).into();
    for disk in [&RAM, &FILE] {
        let began = Instant::now();
        let verified = check::disk(address, disk.nqn, CHECKED)?;
        let took = began.elapsed().as_secs_f64();
        println!(
            "{}: {} MiB written over NVMe/TCP, read back and equal ({took:.2} s)",
            disk.bdev,
            verified >> 20
        );
    }
    println!("\nServing. From a Linux machine that reaches this one (nvme-cli, module nvme-tcp):");
    for disk in [&RAM, &FILE] {
        println!("  nvme connect -t tcp -a {ADDRESS} -s {port} -n {}", disk.nqn);
    }
    if once {
        return Ok(host.stop()?);
    }
    println!("Ctrl-C ends it.");
    host.wait()
}

/// The host, with a folder of its own that goes with it.
struct Host {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
    port: u16,
}

impl Host {
    fn start() -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("drivebay-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let socket = folder.join("rpc.sock");
        let child = Command::new(program())
            .arg("serve")
            .arg("-r")
            .arg(&socket)
            .arg("--plugin-dir")
            .arg(release())
            .env("DRIVEBAY_RUNTIME", &folder)
            .spawn()
            .map_err(|error| format!("{}: {error}", program().display()))?;
        let mut host = Self { child, folder, socket, port: free_port()? };
        host.wait_until_it_answers()?;
        Ok(host)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !run::succeeds(&mut self.call("spdk_get_version", "{}")) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the host ended: {status}"));
            }
            if Instant::now() > end {
                return Err(format!("the host did not answer within {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn call(&self, method: &str, params: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("rpc").arg("-r").arg(&self.socket).args([method, params]);
        command
    }

    fn rpc(&self, method: &str, params: &str) -> Result<(), String> {
        run::must(&mut self.call(method, params))
    }

    fn export(&self, disk: &Disk) -> Result<(), String> {
        let (Disk { bdev, nqn, serial }, port) = (disk, self.port);
        self.rpc(
            "nvmf_create_subsystem",
            &format!(r#"{{"nqn":"{nqn}","allow_any_host":true,"serial_number":"{serial}"}}"#),
        )?;
        self.rpc(
            "nvmf_subsystem_add_ns",
            &format!(r#"{{"nqn":"{nqn}","namespace":{{"bdev_name":"{bdev}"}}}}"#),
        )?;
        self.rpc(
            "nvmf_subsystem_add_listener",
            &format!(
                r#"{{"nqn":"{nqn}","listen_address":{{"trtype":"TCP","adrfam":"IPv4","traddr":"{ADDRESS}","trsvcid":"{port}"}}}}"#
            ),
        )
    }

    /// Asks the host to end, and waits.
    fn stop(&mut self) -> Result<(), String> {
        self.rpc("spdk_kill_instance", r#"{"sig_name":"SIGTERM"}"#)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the host ended: {status}")),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(format!("the host: {error}")),
            }
        }
        Err(format!("the host did not end within {} s", PATIENCE.as_secs()))
    }

    /// Waits for the host's end; Ctrl-C reaches it as it reaches this program.
    fn wait(&mut self) -> Outcome {
        let status = self.child.wait().map_err(|error| format!("the host: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("the host ended: {status}").into()) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // No effect on a host that has ended; otherwise an error left it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn release() -> PathBuf {
    run::target().join("release")
}

fn program() -> PathBuf {
    release().join("drivebay")
}

fn create_sparse(path: &Path, size_bytes: u64) -> Result<(), String> {
    std::fs::File::create_new(path)
        .and_then(|file| file.set_len(size_bytes))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn free_port() -> Result<u16, String> {
    (PORT..PORT + 100)
        .find(|&port| std::net::TcpListener::bind((ADDRESS, port)).is_ok())
        .ok_or_else(|| format!("no port from {PORT} on is free"))
}
