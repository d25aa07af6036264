//! The thread whose descriptor ended the reactor's sleep runs before the other threads, and every
//! poller gets its `woke` call.
#![expect(unsafe_code, reason = "registers pollers with descriptors through the tables of the ABI")]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const THREADS: usize = 3;

/// What pollers see, in order, each with the number of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Run(usize),
    PrepareSleep(usize),
    Woke(usize),
    Work(usize),
}

impl Seen {
    fn is_of(self, thread: usize) -> bool {
        let (Self::Run(of) | Self::PrepareSleep(of) | Self::Woke(of) | Self::Work(of)) = self;
        of == thread
    }
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

fn note(what: Seen) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

fn seen() -> Vec<Seen> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Waiting {
    number: usize,
    bell: UnixStream,
}

fn waiting<'a>(ctx: *mut c_void) -> &'a Waiting {
    // SAFETY: `wait_on_a_thread` leaked the context.
    unsafe { &*ctx.cast() }
}

unsafe extern "C" fn run(ctx: *mut c_void) -> i32 {
    let Waiting { number, bell } = waiting(ctx);
    let rang = (&*bell).read(&mut [0]).is_ok();
    note(if rang { Seen::Work(*number) } else { Seen::Run(*number) });
    i32::from(rang)
}

unsafe extern "C" fn prepare_sleep(ctx: *mut c_void) -> i32 {
    note(Seen::PrepareSleep(waiting(ctx).number));
    0
}

unsafe extern "C" fn woke(ctx: *mut c_void) {
    note(Seen::Woke(waiting(ctx).number));
}

/// Creates a thread with a poller that wakes when a byte arrives on the returned socket.
fn wait_on_a_thread(number: usize, core: &CpuSet) -> UnixStream {
    let (near, bell) = UnixStream::pair().unwrap();
    bell.set_nonblocking(true).unwrap();
    let id = thread::create(&format!("waiting {number}"), core).unwrap();
    let (sender, made) = mpsc::channel();
    thread::send_boxed(id, move || sender.send(register(Waiting { number, bell })).unwrap());
    assert_eq!(made.recv().unwrap(), (0, 0));
    near
}

/// Registers the poller and its descriptor. Returns the status of both calls.
fn register(waiting: Waiting) -> (i32, i32) {
    // SAFETY: the table with this id has this type.
    let table: &bay_poller_api = unsafe { &*services::table(id::POLLER).unwrap().cast() };
    let ops = bay_poller_ops {
        size: u32::try_from(size_of::<bay_poller_ops>()).unwrap(),
        flags: 0,
        run: Some(run),
        prepare_sleep: Some(prepare_sleep),
        woke: Some(woke),
        next_ns: None,
    };
    let host: *const bay_host = ptr::without_provenance(0x1000);
    let fd = waiting.bell.as_raw_fd();
    let ctx = ptr::from_ref(Box::leak(Box::new(waiting))).cast_mut().cast();
    let mut poller = 0;
    let name = bay_str::new("bell");
    // SAFETY: the functions fit the context, and both stay valid.
    let added =
        unsafe { table.register.unwrap()(host, &raw const ops, ctx, 0, name, &raw mut poller) };
    // SAFETY: the poller belongs to this thread.
    (added, unsafe { table.wake_fd.unwrap()(host, poller, fd, libc::POLLIN as u32) })
}

/// Returns when the reactor has not run for a while and no event was noted.
fn let_it_sleep(give_up: Instant) {
    let mut last = usize::MAX;
    loop {
        assert!(Instant::now() < give_up, "the reactor does not sleep");
        std::thread::sleep(Duration::from_millis(30));
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == last {
            return seen.clear();
        }
        last = seen.len();
    }
}

/// Rings until the bell has ended a sleep. Returns what pollers saw from there to the next sleep.
fn ring(number: usize, bell: &mut UnixStream) -> Vec<Seen> {
    let give_up = Instant::now() + Duration::from_secs(20);
    while Instant::now() < give_up {
        let_it_sleep(give_up);
        bell.write_all(&[1]).unwrap();
        while !seen().contains(&Seen::Work(number)) {
            std::thread::sleep(Duration::from_millis(1));
            assert!(Instant::now() < give_up, "no thread ran: {:?}", seen());
        }
        let_others_run(give_up);
        let seen = seen();
        // If there was no `woke`, the reactor was not asleep: it waited for its core.
        if matches!(seen.first(), Some(Seen::Woke(_))) {
            return seen;
        }
    }
    panic!("the reactor never slept");
}

fn let_others_run(give_up: Instant) {
    let has_run =
        |number| seen().iter().any(|&what| [Seen::Run(number), Seen::Work(number)].contains(&what));
    while !(0..THREADS).all(has_run) {
        std::thread::sleep(Duration::from_millis(1));
        assert!(Instant::now() < give_up, "not every thread ran: {:?}", seen());
    }
}

#[test]
fn the_thread_that_was_woken_runs_first_and_each_poller_hears_of_it_once_before_it_runs() {
    let core = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&core, Mode::Adaptive).unwrap();
    let mut bells: Vec<_> = (0..THREADS).map(|number| wait_on_a_thread(number, &core)).collect();
    for number in [2, 0, 1, 1, 2, 0] {
        let seen = ring(number, &mut bells[number]);
        assert_eq!(seen[..2], [Seen::Woke(number), Seen::Work(number)], "{seen:?}");
        for other in 0..THREADS {
            let mut of_it = seen.iter().filter(|what| what.is_of(other));
            assert_eq!(of_it.next(), Some(&Seen::Woke(other)), "{seen:?}");
            assert_ne!(of_it.next(), Some(&Seen::Woke(other)), "woken twice: {seen:?}");
        }
    }
    reactors.stop();
}
