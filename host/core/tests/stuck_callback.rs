//! The watchdog names a callback that does not return, with its thread, until it returns.
#![expect(unsafe_code, reason = "registers pollers through the tables of the ABI")]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread, watch};
use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: {:?}", watch::stuck());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the first run of `sleepy` blocks.
static RUN_BLOCKS: AtomicBool = AtomicBool::new(true);
/// Whether `dozy` blocks when its reactor prepares for sleep.
static SLEEP_BLOCKS: AtomicBool = AtomicBool::new(true);

/// Gives up after a while, so the test ends in any case.
fn block_while(blocks: &AtomicBool) -> i32 {
    let end = Instant::now() + PATIENCE;
    while blocks.load(Ordering::Relaxed) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    0
}

unsafe extern "C" fn run(_ctx: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn run_that_blocks(_ctx: *mut c_void) -> i32 {
    block_while(&RUN_BLOCKS)
}

unsafe extern "C" fn prepare_that_blocks(_ctx: *mut c_void) -> i32 {
    block_while(&SLEEP_BLOCKS)
}

/// Adds a poller to the current thread.
fn register(
    name: &str,
    run: bay_poll_fn,
    prepare_sleep: Option<bay_poll_fn>,
    period_us: u64,
) -> i32 {
    // SAFETY: the table with this id has this type.
    let table: &bay_poller_api = unsafe { &*services::table(id::POLLER).unwrap().cast() };
    let ops = bay_poller_ops {
        size: u32::try_from(size_of::<bay_poller_ops>()).unwrap(),
        flags: 0,
        run: Some(run),
        prepare_sleep,
        woke: None,
        next_ns: None,
    };
    let host: *const bay_host = ptr::without_provenance(0x1000);
    let (name, mut poller) = (bay_str::new(name), 0);
    // SAFETY: the functions need no context.
    unsafe {
        table.register.unwrap()(
            host,
            &raw const ops,
            ptr::null_mut(),
            period_us,
            name,
            &raw mut poller,
        )
    }
}

#[test]
fn a_callback_that_does_not_return_is_named_until_it_does() {
    let cores = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&cores, Mode::Adaptive).unwrap();
    thread::send_app(|| assert_eq!(register("sleepy", run_that_blocks, None, 1000), 0));
    wait_for("the watchdog names no callback", || !watch::stuck().is_empty());
    let named = watch::stuck().concat();
    assert!(named.contains("poller sleepy") && named.contains("on thread app_thread"), "{named}");
    RUN_BLOCKS.store(false, Ordering::Relaxed);
    wait_for("it is still named", || watch::stuck().is_empty());

    let (release, released) = mpsc::channel::<()>();
    thread::send_app(move || {
        let _call = watch::call("plugin acme: method acme_create".into());
        let _ = released.recv();
    });
    wait_for("the call is not named", || watch::stuck().concat().contains("acme_create"));
    drop(release);
    wait_for("the call is still named", || watch::stuck().is_empty());

    thread::send_app(|| assert_eq!(register("dozy", run, Some(prepare_that_blocks), 0), 0));
    wait_for("the callback that prepares for sleep is not named", || {
        watch::stuck().concat().contains("poller dozy")
    });
    SLEEP_BLOCKS.store(false, Ordering::Relaxed);
    wait_for("it is still named", || watch::stuck().is_empty());
    reactors.stop();
}
