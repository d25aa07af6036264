//! `cargo xtask demo`: one command exports two disks over NVMe/TCP, checks them, and serves them
//! until Ctrl-C.

use std::path::Path;
use std::time::Instant;

use crate::host::Host;
use crate::prepare::{self, Need};
use crate::{Failure, Outcome, check, run};

/// The first port to try. If it is in use, the demo takes the next free one.
const PORT: u16 = 4420;
/// How much of each disk the demo writes and verifies, in bytes.
const CHECKED: u64 = 32 << 20;
const ADDRESS: &str = "127.0.0.1";
/// What the demo runs: the host, and the plugins of its disks and of NVMe/TCP. Nothing else is built, so the demo starts sooner.
const PACKAGES: [&str; 5] =
    ["drivebay", "drivebay-malloc", "drivebay-aio", "drivebay-nvmf", "drivebay-nvmf-tcp"];

/// A disk of the demo: its bdev, which an RPC call creates, and the subsystem that exports it.
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
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    run::must(run::cargo(&["build", "--release"]).args(packages))?;

    let port = free_port()?;
    let mut host = Host::start(&run::target().join("release"), "demo", &[])?;
    let backing = host.folder.join("file0.img");
    create_sparse(&backing, 64 << 20)?;
    host.rpc("bdev_malloc_create", r#"{"name":"Ram0","num_blocks":131072,"block_size":512}"#)?;
    host.rpc(
        "bdev_aio_create",
        &format!(r#"{{"name":"File0","filename":"{}","block_size":512}}"#, backing.display()),
    )?;
    host.rpc("nvmf_create_transport", r#"{"trtype":"TCP"}"#)?;
    for disk in [&RAM, &FILE] {
        export(&host, disk, port)?;
    }
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

/// Creates a subsystem with a disk and a listener.
fn export(host: &Host, disk: &Disk, port: u16) -> Result<(), String> {
    let Disk { bdev, nqn, serial } = disk;
    host.rpc(
        "nvmf_create_subsystem",
        &format!(r#"{{"nqn":"{nqn}","allow_any_host":true,"serial_number":"{serial}"}}"#),
    )?;
    host.rpc(
        "nvmf_subsystem_add_ns",
        &format!(r#"{{"nqn":"{nqn}","namespace":{{"bdev_name":"{bdev}"}}}}"#),
    )?;
    host.rpc(
        "nvmf_subsystem_add_listener",
        &format!(
            r#"{{"nqn":"{nqn}","listen_address":{{"trtype":"TCP","adrfam":"IPv4","traddr":"{ADDRESS}","trsvcid":"{port}"}}}}"#
        ),
    )
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
