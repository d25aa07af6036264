//! The host with its disks, the threads that use and change it, and the end.

use crate::counts::Counts;
use crate::host::{Host, eventually};
use crate::lanes::Disk;
use crate::memory::Memory;
use crate::target::{BLOCK, NQN};
use crate::{calls, changes, clients, plugins};
use drivebay_nvme_driver::Options;
use drivebay_nvme_driver::tcp::Digests;
use serde_json::json;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Blocks of each disk: 8 MiB.
pub(crate) const DISK_BLOCKS: u64 = 16_384;
/// Number of visitors, which come and go.
const VISITORS: usize = 2;

/// The disks that stay: a RAM disk, a file, a null disk, and passthru over another RAM disk and over another file.
pub(crate) const DISKS: [Disk; 5] =
    [disk(1, true), disk(2, true), disk(3, false), disk(4, true), disk(5, true)];
const BDEVS: [&str; 5] = ["ram", "file", "nothing", "past_ram", "past_file"];

const fn disk(nsid: u32, keeps: bool) -> Disk {
    Disk { nsid, keeps, refusals: &[] }
}

/// The work of one thread for the whole run.
type Part<'a> = Box<dyn FnOnce() -> Result<(), String> + Send + 'a>;

/// The work of all threads, with names.
fn parts(scene: &Scene) -> Vec<(String, Part<'_>)> {
    let mut parts: Vec<(String, Part<'_>)> = vec![
        ("changes".into(), Box::new(|| changes::run(scene))),
        ("plugins".into(), Box::new(|| plugins::run(scene))),
        ("calls".into(), Box::new(|| calls::run(scene))),
    ];
    for (turn, disk) in DISKS.into_iter().chain([changes::COMES]).enumerate() {
        let what = format!("the client of namespace {}", disk.nsid);
        parts.push((what, Box::new(move || clients::stay(scene, disk, turn))));
    }
    for i in 0..VISITORS {
        let what = format!("visitor {i}");
        parts.push((what, Box::new(move || clients::come_and_go(scene, i))));
    }
    parts
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) counts: Counts,
    address: SocketAddr,
    folder: TempDir,
    is_over: AtomicBool,
    length: Duration,
    begun: Instant,
    /// The first failure.
    noticed: Mutex<Option<String>>,
    memory: Memory,
}

impl Scene {
    pub(crate) fn start() -> Self {
        let cores = thread::available_parallelism().map_or(1, |count| count.get().min(2));
        let host =
            Host::start(&["--mode", "adaptive", "-m", if cores > 1 { "0x3" } else { "0x1" }]);
        let folder = tempfile::tempdir().unwrap();
        let scene = Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            host,
            counts: Counts::default(),
            folder,
            is_over: AtomicBool::new(false),
            length: Duration::ZERO,
            begun: Instant::now(),
            noticed: Mutex::default(),
            memory: Memory::default(),
        };
        scene.with_disks()
    }

    fn with_disks(mut self) -> Self {
        let host = &self.host;
        for name in ["ram", "ram_below", "come"] {
            host.call(
                "bdev_malloc_create",
                json!({"name": name, "num_blocks": DISK_BLOCKS, "block_size": BLOCK}),
            );
        }
        for name in ["file", "file_below"] {
            let path = self.file(name);
            File::create(&path).unwrap().set_len(DISK_BLOCKS * BLOCK as u64).unwrap();
            host.call(
                "bdev_aio_create",
                json!({"name": name, "filename": path, "block_size": BLOCK, "fallocate": true}),
            );
        }
        host.call(
            "bdev_null_create",
            json!({"name": "nothing", "num_blocks": DISK_BLOCKS, "block_size": BLOCK}),
        );
        for (base, name) in [("ram_below", "past_ram"), ("file_below", "past_file")] {
            host.call("bdev_passthru_create", json!({"base_bdev_name": base, "name": name}));
        }
        host.call("nvmf_create_transport", json!({"trtype": "TCP"}));
        host.add_subsystem(NQN);
        for (disk, bdev) in DISKS.iter().zip(BDEVS) {
            assert_eq!(host.add_namespace(NQN, bdev), disk.nsid);
        }
        assert_eq!(host.add_namespace(NQN, "come"), changes::COMES.nsid);
        self.address = self.host.listen(NQN, Ipv4Addr::LOCALHOST.into());
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Options to connect. `turn` selects the digests.
    pub(crate) fn options(&self, turn: usize) -> Options {
        let digests = Digests { header: turn & 1 != 0, data: turn & 2 != 0 };
        // The timeout allows for a busy machine.
        Options { digests, timeout: Duration::from_secs(60), ..Options::new(self.address, NQN) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    /// The part of the time that has passed, from 0 to 1.
    pub(crate) fn passed(&self) -> f64 {
        self.begun.elapsed().as_secs_f64() / self.length.as_secs_f64()
    }

    /// Waits for `time`, or until the run is over.
    pub(crate) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_over() {
            thread::sleep(time.min(Duration::from_millis(10)));
        }
    }

    /// Runs everything at once for the given time, or until the first failure, which it returns. It calls `meanwhile`
    /// regularly.
    pub(crate) fn play(
        &mut self,
        length: Duration,
        meanwhile: impl Fn(&Self, Duration),
    ) -> Result<(), String> {
        (self.length, self.begun) = (length, Instant::now());
        let scene = &*self;
        thread::scope(|threads| {
            for (what, run) in parts(scene) {
                threads.spawn(move || scene.take_part(&what, run));
            }
            while !scene.is_over() && scene.begun.elapsed() < length {
                scene.memory.look(&scene.host, scene.begun.elapsed(), length);
                meanwhile(scene, scene.begun.elapsed());
                scene.pause(length / 300);
            }
            scene.is_over.store(true, Ordering::Relaxed);
        });
        eprintln!("in {:.1} s: {}", self.begun.elapsed().as_secs_f64(), self.counts);
        self.noticed.get_mut().unwrap().take().map_or(Ok(()), Err)
    }

    fn take_part(&self, what: &str, run: Part<'_>) {
        // A panic counts as an error.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let reported = ended.unwrap_or_else(|_| Err("it panicked".to_owned()));
        if let Err(why) = reported {
            self.noticed.lock().unwrap().get_or_insert(format!("{what}: {why}"));
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Checks that no controller is left and that memory did not grow, and stops the host. Its log must have no
    /// warning.
    pub(crate) fn end(mut self) {
        eventually("the controllers are gone", || {
            let left = self.host.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
            (left == json!([])).then_some(())
        });
        self.memory.check_flat(self.length).unwrap();
        let took = self.host.stop();
        eprintln!("the host ended in {} ms", took.as_millis());
        let log = self.host.log();
        let is_bad = |line: &&str| line.contains(" ERROR ") || line.contains(" WARNING ");
        // The host logs once, when a disk is created, what the file system does not support.
        let bad: Vec<&str> =
            log.lines().filter(is_bad).filter(|line| !line.contains("aio")).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
}
