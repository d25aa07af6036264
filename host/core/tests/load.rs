//! The load generator with a RAM disk whose timing and faults each test chooses.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "test helpers: a panic fails the test, numbers are small, the bus uses what is forgotten"
)]

#[allow(dead_code, reason = "the tests of the bus use all of it")]
#[path = "bus/abi.rs"]
mod abi;

use abi::ModuleIo;
use drivebay_core::env::CpuSet;
use drivebay_core::load::{self, Failure, Limit, Pattern, Plan};
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_plugin_api::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const BLOCK: usize = 512;
const BLOCKS: usize = 4096;

// ---- counting allocations --------------------------------------------------------------------------

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work, and counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises the same for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; `memory` came from `System.alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

// ---- the disk ----------------------------------------------------------------------------------------

#[derive(Default)]
struct Disk {
    /// The blocks. A channel copies only the data of its own I/O; workers on two cores have separate
    /// parts of the disk.
    data: Vec<UnsafeCell<u8>>,
    /// Whether I/O completes at the end of the round instead of inside `submit`.
    later: AtomicBool,
    /// Whether I/O transfers no data.
    null: AtomicBool,
    /// The number (from 1) of the I/O that fails with EIO.
    fail_at: AtomicI32,
    /// The number (from 1) of the write that the disk loses.
    lose_at: AtomicI32,
    submitted: AtomicU64,
}

struct Channel {
    disk: &'static Disk,
    kept: RefCell<Vec<ModuleIo>>,
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    // SAFETY: `register` gave the bus a leaked disk as the context.
    let disk = unsafe { &*bdev.cast::<Disk>() };
    let kept = RefCell::new(Vec::with_capacity(1024));
    let made = Box::into_raw(Box::new(Channel { disk, kept }));
    // SAFETY: the bus passes a valid place for the channel.
    unsafe { chan.write(made.cast()) };
    0
}

unsafe extern "C" fn chan_destroy(_bdev: *mut c_void, chan: *mut c_void) -> i32 {
    // SAFETY: `chan_create` made the box, and the bus destroys each channel once.
    drop(unsafe { Box::from_raw(chan.cast::<Channel>()) });
    0
}

unsafe extern "C" fn destruct(_bdev: *mut c_void) -> i32 {
    0
}

/// The channel that the bus names. It lives until `chan_destroy`.
fn channel<'a>(chan: *mut c_void) -> &'a Channel {
    // SAFETY: `chan_create` made it. The bus never destroys it during a call of the module.
    unsafe { &*chan.cast::<Channel>() }
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    let channel = channel(chan);
    // SAFETY: the bus gives the request to the module here.
    let io = unsafe { ModuleIo::new(io) };
    channel.disk.submitted.fetch_add(1, Ordering::Relaxed);
    if channel.disk.later.load(Ordering::Relaxed) {
        channel.kept.borrow_mut().push(io);
    } else {
        end(channel.disk, io);
    }
}

unsafe extern "C" fn flush(chan: *mut c_void) {
    let channel = channel(chan);
    // A completion may submit another I/O, which waits for the next round.
    let now = channel.kept.borrow().len();
    for _ in 0..now {
        let io = channel.kept.borrow_mut().remove(0);
        end(channel.disk, io);
    }
}

fn end(disk: &Disk, io: ModuleIo) {
    let status = if disk.fail_at.fetch_sub(1, Ordering::Relaxed) == 1 {
        -libc::EIO
    } else {
        transfer(disk, &io.request());
        0
    };
    io.complete(status);
}

fn transfer(disk: &Disk, request: &bay_io) {
    if disk.null.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the load generator passes a list of one element, which it keeps until the I/O completes.
    let element = unsafe { *request.iov };
    let (memory, len) = (element.addr.cast::<u8>(), element.len as usize);
    let at = request.lba as usize * BLOCK;
    let stored = disk.data.get(at..at + len).unwrap();
    let data = UnsafeCell::raw_get(stored.as_ptr());
    if request.op == BAY_OP_READ {
        // SAFETY: both have `len` bytes, and the client keeps its memory until the I/O completes. No
        // other core uses these bytes of the disk (`Disk::data`).
        unsafe { ptr::copy_nonoverlapping(data, memory, len) };
    } else if disk.lose_at.fetch_sub(1, Ordering::Relaxed) != 1 {
        // SAFETY: as for a read.
        unsafe { ptr::copy_nonoverlapping(memory, data, len) };
    }
}

static OPS: bay_bdev_ops = bay_bdev_ops {
    size: size_of::<bay_bdev_ops>() as u32,
    flags: 0,
    submit: Some(submit),
    flush: Some(flush),
    chan_create: Some(chan_create),
    chan_destroy: Some(chan_destroy),
    destruct: Some(destruct),
    dump_info: None,
    write_config: None,
    dump_stats: None,
    reset_stats: None,
    space: None,
};

fn disk(name: &str) -> &'static Disk {
    let data = std::iter::repeat_with(UnsafeCell::default).take(BLOCKS * BLOCK).collect();
    let disk: &Disk = Box::leak(Box::new(Disk { data, ..Disk::default() }));
    let (address, name) = (ptr::from_ref(disk).expose_provenance(), name.to_owned());
    let (sender, registered) = std::sync::mpsc::channel();
    thread::send_app(move || {
        let disk = ptr::with_exposed_provenance(address);
        sender.send(register(disk, &name)).unwrap();
    });
    registered.recv().unwrap().unwrap();
    disk
}

/// Registers a leaked disk on the bus. Returns its handle. App thread.
fn register(disk: *const Disk, name: &str) -> Result<u64, i32> {
    let mut reg = abi::registration(name, &OPS);
    reg.ctx = disk.cast_mut().cast();
    reg.block_size = BLOCK as u32;
    reg.num_blocks = BLOCKS as u64;
    reg.ops_mask = 1 << BAY_OP_READ | 1 << BAY_OP_WRITE;
    // SAFETY: the name is valid for the call. The functions are static, and the disk is leaked.
    unsafe { abi::register(&reg) }
}

fn reactors() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let two = CpuSet::parse("[0,1]").unwrap();
        std::mem::forget(reactor::start(&two, Mode::Adaptive).unwrap());
    });
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan of 5,000 I/O of 4 KiB, at depth 8 on core 0.
fn plan(bdev: &str, pattern: Pattern) -> Plan {
    Plan {
        bdevs: vec![bdev.to_owned()],
        cores: CpuSet::one(0),
        pattern,
        depth: 8,
        io_size: 4096,
        limit: Limit::Ios(5000),
        warm_up: Duration::ZERO,
        verify: false,
        null_loop: false,
        copy_loop: false,
    }
}

fn run(plan: &Plan) -> load::Report {
    load::run(plan, &Arc::default()).unwrap().reports.remove(0)
}

// ---- the tests -----------------------------------------------------------------------------------------

#[test]
fn a_number_of_io_is_kept_exactly_whether_it_ends_at_once_or_later() {
    let _guard = reactors();
    for later in [false, true] {
        let name = format!("exact_{later}");
        let disk = disk(&name);
        disk.later.store(later, Ordering::Relaxed);
        for (depth, ios) in [(1, 1000), (8, 5000), (200, 5001), (64, 10)] {
            let before = disk.submitted.load(Ordering::Relaxed);
            let plan = Plan { depth, limit: Limit::Ios(ios), ..plan(&name, Pattern::RandRead) };
            let report = run(&plan);
            assert_eq!((report.reads, report.writes, report.failed), (ios, 0, 0));
            assert_eq!(disk.submitted.load(Ordering::Relaxed) - before, ios);
            assert_eq!(report.latency.count(), ios);
            assert_eq!(report.failure, None);
        }
    }
}

#[test]
fn a_mix_reads_and_writes_in_its_ratio() {
    let _guard = reactors();
    disk("mix");
    let report = run(&plan("mix", Pattern::RandReadWrite(30)));
    assert_eq!(report.reads + report.writes, 5000);
    assert!((1300..1700).contains(&report.reads), "{}", report.reads);
}

#[test]
fn a_time_limit_ends_the_run_and_a_warm_up_is_not_counted() {
    let _guard = reactors();
    let disk = disk("timed");
    let plan = Plan {
        limit: Limit::Time(Duration::from_millis(60)),
        warm_up: Duration::from_millis(60),
        ..plan("timed", Pattern::Read)
    };
    let report = run(&plan);
    assert!(report.elapsed >= Duration::from_millis(60), "{:?}", report.elapsed);
    assert!(report.reads > 0 && report.reads < disk.submitted.load(Ordering::Relaxed));
    assert_eq!(report.latency.count(), report.reads);
}

#[test]
fn a_stopped_run_ends_early() {
    let _guard = reactors();
    disk("stopped");
    let plan =
        Plan { limit: Limit::Time(Duration::from_secs(600)), ..plan("stopped", Pattern::Read) };
    let stop: Arc<AtomicBool> = Arc::default();
    let from_outside = Arc::clone(&stop);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        from_outside.store(true, Ordering::Relaxed);
    });
    let results = load::run(&plan, &stop).unwrap();
    assert!(results.reports[0].elapsed < Duration::from_secs(60));
}

#[test]
fn verification_accepts_a_sound_disk_on_two_cores() {
    let _guard = reactors();
    disk("sound");
    for pattern in [Pattern::Verify, Pattern::RandReadWrite(50), Pattern::ReadWrite(50)] {
        let two = CpuSet::parse("[0,1]").unwrap();
        let plan = Plan { cores: two, verify: true, ..plan("sound", pattern) };
        let reports = load::run(&plan, &Arc::default()).unwrap().reports;
        assert_eq!(reports.iter().map(|report| report.core).collect::<Vec<_>>(), [0, 1]);
        for report in reports {
            assert_eq!(report.failure, None, "{pattern:?}");
            assert!(report.verified > 1000, "{pattern:?}: {}", report.verified);
        }
    }
}

#[test]
fn a_lost_write_and_a_disk_that_moves_nothing_are_found() {
    let _guard = reactors();
    let found = |report: load::Report| matches!(report.failure, Some(Failure::Mismatch(_)));
    let losing = disk("losing");
    losing.lose_at.store(777, Ordering::Relaxed);
    let report = run(&plan("losing", Pattern::Verify));
    assert!(report.reads + report.writes < 2000, "the run must end at the first mismatch");
    assert!(found(report));
    let null = disk("moves_nothing");
    null.null.store(true, Ordering::Relaxed);
    assert!(found(run(&Plan { depth: 1, ..plan("moves_nothing", Pattern::Verify) })));
    // If a lost block is written again before it is read, nobody can notice. With many disks, some
    // lost blocks are read first.
    assert!((0..40).any(|number| {
        let name = format!("losing_{number}");
        disk(&name).lose_at.store(900, Ordering::Relaxed);
        let limit = Limit::Ios(100_000);
        found(run(&Plan { verify: true, limit, ..plan(&name, Pattern::RandReadWrite(50)) }))
    }));
}

#[test]
fn the_first_failed_io_ends_the_run_and_is_reported() {
    let _guard = reactors();
    let disk = disk("failing");
    disk.fail_at.store(100, Ordering::Relaxed);
    let report = run(&plan("failing", Pattern::Write));
    assert_eq!(
        report.failure,
        Some(Failure::Status { lba: 99 * 8, read: false, status: -libc::EIO })
    );
    assert_eq!((report.failed, report.writes), (1, 99));
}

#[test]
fn the_null_loop_never_reaches_the_disk() {
    let _guard = reactors();
    let disk = disk("left_alone");
    let report = run(&Plan { null_loop: true, ..plan("left_alone", Pattern::RandRead) });
    assert_eq!((report.reads, disk.submitted.load(Ordering::Relaxed)), (5000, 0));
}

#[test]
fn the_copy_loop_moves_data_of_its_own_and_never_reaches_the_disk() {
    let _guard = reactors();
    let disk = disk("not_copied");
    for pattern in [Pattern::RandRead, Pattern::RandWrite] {
        let report = run(&Plan { copy_loop: true, ..plan("not_copied", pattern) });
        assert_eq!(report.reads + report.writes, 5000);
    }
    assert_eq!(disk.submitted.load(Ordering::Relaxed), 0);
    let verified = Plan { copy_loop: true, ..plan("not_copied", Pattern::Verify) };
    let refused = load::run(&verified, &Arc::default()).unwrap_err();
    assert!(refused.message().starts_with("verify"), "{refused}");
}

#[test]
fn nothing_is_allocated_per_io() {
    let _guard = reactors();
    for later in [false, true] {
        let name = format!("counted_{later}");
        disk(&name).later.store(later, Ordering::Relaxed);
        let count = |ios| {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let plan = Plan { limit: Limit::Ios(ios), ..plan(&name, Pattern::RandReadWrite(50)) };
            assert_eq!(run(&plan).failure, None);
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        let (few, many) = (count(1000), count(200_000));
        assert!(many < few + 1000, "{few} allocations for 1,000 I/O, {many} for 200,000");
    }
}

#[test]
fn a_plan_that_cannot_be_run_names_its_field() {
    let _guard = reactors();
    disk("plans");
    let good = || plan("plans", Pattern::RandRead);
    let wrong = [
        (Plan { bdevs: vec![], ..good() }, "bdevs"),
        (plan("no_such_disk", Pattern::Read), "no_such_disk"),
        (Plan { depth: 0, ..good() }, "depth 0"),
        (Plan { io_size: 1000, ..good() }, "multiple of its block size 512"),
        (Plan { io_size: 4 << 20, ..good() }, "too small"),
        (Plan { cores: CpuSet::one(9), ..good() }, "core 9"),
        (Plan { verify: true, ..good() }, "verify"),
        (Plan { pattern: Pattern::ReadWrite(101), ..good() }, "read percentage 101"),
        (Plan { depth: 512, ..plan("plans", Pattern::Verify) }, "513 I/O"),
    ];
    for (plan, field) in wrong {
        let error = load::run(&plan, &Arc::default()).unwrap_err();
        assert!(error.message().contains(field), "{field}: {error}");
    }
    assert_eq!(run(&good()).failure, None);
}
