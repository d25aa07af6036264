//! One running `drivebay serve`, and RPC calls to it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The time limits for the host's first answer, for a call, and for the end. They allow for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
const CALL_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The growth that the allocator and a few more buffers in use may cause, in KiB. It does not depend on the number of
/// rounds. If each round lost one receive buffer of 64 KiB, the growth would be more.
const GROWTH_MAX_KIB: u64 = 4096;

/// Number of log lines to print after a failed test.
const LOG_LINES: usize = 40;

/// A host with its own runtime folder. Dropping it asks the host to stop, which must succeed. After a failed test, the
/// host is killed and its log printed instead.
#[derive(Debug)]
pub(crate) struct Host {
    process: Child,
    folder: TempDir,
    has_ended: bool,
}

/// An error answer of the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: i64,
    pub(crate) message: String,
}

/// The system's resources that a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Resident memory, in KiB.
    pub(crate) resident_kib: u64,
    pub(crate) files: usize,
    pub(crate) threads: usize,
    /// The highest number of small and of large buffers in use at once.
    pub(crate) buffers: [u64; 2],
}

impl Host {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let plugins = plugin_folder();
        let plugins = plugins.to_str().unwrap();
        // Use ordinary pages, because they count as resident memory and leave the hugepages to other programs.
        let common = ["--no-huge", "--plugin-dir", plugins];
        Self::start_program(&program(), &[&common, flags].concat())
    }

    /// Starts this program with only these flags.
    pub(crate) fn start_program(program: &Path, flags: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("drivebay-test.").tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg("-r")
            .arg(folder.path().join("rpc.sock"))
            .args(flags)
            .env("DRIVEBAY_RUNTIME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut host = Self { process, folder, has_ended: false };
        let deadline = Instant::now() + START_LIMIT;
        while UnixStream::connect(host.socket()).is_err() {
            if let Some(status) = host.process.try_wait().unwrap() {
                host.has_ended = true;
                panic!("the host ended at its start: {status}");
            }
            assert!(Instant::now() < deadline, "the host did not start within {START_LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
        host.call("spdk_get_version", json!({}));
        host
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("rpc.sock")
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap()).into_owned()
    }

    /// Makes a call that must succeed.
    pub(crate) fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params)
            .unwrap_or_else(|Refused { code, message }| panic!("{method}: {code} {message}"))
    }

    /// Makes a call that must fail.
    pub(crate) fn refused(&self, method: &str, params: Value) -> Refused {
        match self.try_call(method, params) {
            Err(refused) => refused,
            Ok(result) => panic!("{method} must be refused, but answered {result}"),
        }
    }

    pub(crate) fn try_call(&self, method: &str, params: Value) -> Result<Value, Refused> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(CALL_LIMIT)).unwrap();
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        stream.write_all(request.to_string().as_bytes()).unwrap();
        let answers = serde_json::Deserializer::from_reader(BufReader::new(stream));
        let mut answer: Value = answers.into_iter().next().unwrap().unwrap();
        match answer.get("error") {
            None => Ok(answer["result"].take()),
            Some(error) => Err(Refused {
                code: error["code"].as_i64().unwrap(),
                message: error["message"].as_str().unwrap().to_owned(),
            }),
        }
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let count = |folder| fs::read_dir(process.join(folder)).unwrap().count();
        let pools = self.call("iobuf_get_stats", json!({}));
        let buffers = ["small_pool", "large_pool"].map(|pool| pools[0][pool]["main"].as_u64());
        Footprint {
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
            files: count("fd"),
            threads: count("task"),
            buffers: buffers.map(Option::unwrap),
        }
    }

    /// Processor time of the host so far, in nanoseconds.
    pub(crate) fn processor_ns(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let used = |thread: PathBuf| -> Option<u64> {
            fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        threads.filter_map(|thread| used(thread.unwrap().path())).sum()
    }

    /// The footprint once it is stable. The host closes the files of ended connections a moment later.
    pub(crate) fn settled_footprint(&self) -> Footprint {
        let mut last = self.footprint();
        eventually("the host closes ended connections", || {
            thread::sleep(Duration::from_millis(50));
            let before = std::mem::replace(&mut last, self.footprint());
            (before.files == last.files && before.buffers == last.buffers).then_some(last)
        })
    }

    /// Waits until the host has at most as many open files as in `before`. Returns its footprint then.
    pub(crate) fn footprint_like(&self, before: &Footprint) -> Footprint {
        eventually("files of ended connections are closed", || {
            let now = self.footprint();
            (now.files <= before.files).then_some(now)
        })
    }

    /// Expects that everything allocated since `before` was released after `rounds` repetitions. The highest use of
    /// buffers varies by a few. If each round lost one buffer, it would grow by `rounds`.
    pub(crate) fn assert_footprint(&self, before: &Footprint, rounds: usize) {
        let now = self.footprint_like(before);
        eprintln!("footprint: {before:?}, then {now:?}");
        assert_eq!(now.threads, before.threads);
        for (now, before) in now.buffers.into_iter().zip(before.buffers) {
            assert!(now < before + rounds as u64, "buffers are lost: {before} before, {now} after");
        }
        let grown_kib = now.resident_kib.saturating_sub(before.resident_kib);
        assert!(grown_kib <= GROWTH_MAX_KIB, "{before:?} has become {now:?}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until the host ends by itself. Returns its status and the time it took.
    pub(crate) fn wait_end(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                self.has_ended = true;
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < STOP_LIMIT, "the host did not end within {STOP_LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the host to stop, which must succeed. Returns the time it took.
    pub(crate) fn stop(&mut self) -> Duration {
        self.signal(Signal::TERM);
        let (status, took) = self.wait_end();
        assert!(status.success(), "the host ended with {status}");
        let log = self.log();
        assert!(!log.contains("panicked"), "a panic is in the log:\n{log}");
        took
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !thread::panicking() && !self.has_ended {
            self.stop();
        }
        if !self.has_ended {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            eprintln!("-- the host's log, its last lines:\n{}", last.join("\n"));
        }
    }
}

/// Waits until `look` returns a value.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + CALL_LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {CALL_LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("DRIVEBAY_BIN").map_or_else(|| built().join("drivebay"), PathBuf::from)
}

/// The folder with the built plugins.
pub(crate) fn plugin_folder() -> PathBuf {
    std::env::var_os("DRIVEBAY_PLUGIN_DIR").map_or_else(built, PathBuf::from)
}

/// The folder of the build that this test belongs to: `target/debug` for `target/debug/deps/nvme-…`.
fn built() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().and_then(Path::parent).unwrap().to_owned();
    assert!(
        folder.join("drivebay").exists(),
        "{} has no program `drivebay`: run `cargo build --workspace` first",
        folder.display()
    );
    folder
}
