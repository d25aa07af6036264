//! The aio plugin and the reference's aio on the same file with O_DIRECT, both polled, and fio's io_uring engine with
//! registered buffers and files.

use super::rates::{bdevperf, perf};
use super::samples::{Samples, ratio};
use super::{Bench, case, table};
use crate::run;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 512 << 20;
const DEPTHS: [u32; 2] = [32, 128];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let file = BackingFile::new(bench)?;
    let fio = run::succeeds(Command::new("fio").arg("--version"));
    table::begin(
        "aio on a file, 4 KiB I/O per second",
        &["load", "depth", "ours", "fio io_uring", "ratio", "reference's aio", "ratio"],
    );
    for pattern in ["randread", "randwrite"] {
        for depth in DEPTHS {
            let [mut ours, mut fios, mut theirs] = [(); 3].map(|()| Samples::default());
            for _ in 0..bench.rounds {
                ours.push(of_ours(bench, &file.0, pattern, depth)?);
                if fio {
                    fios.push(of_fio(bench, &file.0, pattern, depth)?);
                }
                if bench.reference.is_some() {
                    theirs.push(of_reference(bench, &file.0, pattern, depth)?);
                }
            }
            table::row([
                pattern.to_owned(),
                depth.to_string(),
                ours.text(),
                fios.text(),
                ratio(&ours, &fios),
                theirs.text(),
                ratio(&ours, &theirs),
            ]);
        }
    }
    Ok(())
}

fn params(file: &Path) -> Value {
    json!({"name": "file", "filename": file, "block_size": 4096})
}

fn of_ours(bench: &Bench, file: &Path, pattern: &str, depth: u32) -> Result<f64, String> {
    let folder = case::folder().display().to_string();
    let call = format!("bdev_aio_create {}", params(file));
    let depth = depth.to_string();
    let arguments = [
        "perf",
        "--json",
        "--mode",
        "polled",
        "--plugin-dir",
        &folder,
        "-w",
        pattern,
        "-q",
        &depth,
        "--rpc",
        &call,
    ];
    perf(bench, &arguments.map(str::to_owned))
}

fn of_reference(bench: &Bench, file: &Path, pattern: &str, depth: u32) -> Result<f64, String> {
    let calls = [("bdev_aio_create", params(file))];
    bdevperf(bench, &calls, &["-w", pattern, "-m", "0x1", "-T", "file"], depth)
}

fn of_fio(bench: &Bench, file: &Path, pattern: &str, depth: u32) -> Result<f64, String> {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=bench",
        "--ioengine=io_uring",
        "--fixedbufs",
        "--registerfiles",
        "--direct=1",
        // Write zeroes, because the other two programs write zeroes, too. The contents matter on a disk that compresses.
        "--zero_buffers",
    ]);
    fio.args(["--bs=4k", "--time_based", "--cpus_allowed=0", "--output-format=json"]);
    fio.arg(format!("--filename={}", file.display())).arg(format!("--rw={pattern}"));
    fio.arg(format!("--iodepth={depth}")).arg(format!("--runtime={}", bench.seconds));
    let report: Value = serde_json::from_str(&case::output(&mut fio)?)
        .map_err(|error| format!("the report of fio: {error}"))?;
    let kind = if pattern == "randread" { "read" } else { "write" };
    let iops = report.pointer(&format!("/jobs/0/{kind}/iops")).and_then(Value::as_f64);
    iops.ok_or_else(|| "fio printed no rate".to_owned())
}

/// A file with all blocks allocated. It lies in the given folder, by default beside the build output, because a folder
/// for temporary files may not be on a disk.
struct BackingFile(PathBuf);

impl BackingFile {
    fn new(bench: &Bench) -> Result<Self, String> {
        let folder = bench.folder.clone().unwrap_or_else(run::target);
        let path = folder.join(format!("bench-{}.img", std::process::id()));
        let made = Self(path.clone());
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create_new(&path)?;
            let chunk = vec![0x5a; 1 << 20];
            for _ in 0..SIZE >> 20 {
                file.write_all(&chunk)?;
            }
            file.sync_all()
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(made)
    }
}

impl Drop for BackingFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
