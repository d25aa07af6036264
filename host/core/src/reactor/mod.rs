//! Reactors: one OS thread for each core, which runs lightweight threads.
//!
//! In each round a reactor runs every one of its threads once: messages, pollers, ends of bursts.
//! In polled mode rounds follow each other without a pause. In adaptive mode a reactor that finds
//! no work for a while asks every poller to prepare for sleep (arm, then check again). Then it
//! waits in `epoll` for its eventfd, the pollers' descriptors and the next deadline. See
//! `docs/threading.md`.
#![expect(unsafe_code, reason = "epoll, eventfd and pinning are system calls")]

mod announce;
pub mod clock;
mod doing;
mod line;
mod message;
#[cfg(test)]
mod message_tests;
pub mod pins;
pub mod poller;
mod sleep;
pub mod stepped;
mod sync;
pub mod thread;
pub mod watch;

use crate::env::CpuSet;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use line::Line;
use sleep::Sleeper;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use thread::{Moving, Thread};

/// What a reactor does in rounds without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It always spins.
    Polled,
    /// It spins while there is work, and otherwise sleeps until a wake-up or a deadline.
    Adaptive,
}

/// How long an adaptive reactor spins without work before it tries to sleep, in nanoseconds.
const SPIN_NS: u64 = 50_000;

/// The part of a reactor that other OS threads may use.
#[derive(Debug)]
pub struct Reactor {
    /// The core that it is pinned to.
    pub core: usize,
    sleeper: Sleeper,
    inbox: Sender<Moving>,
    polled: AtomicBool,
    stop: AtomicBool,
    threads: AtomicUsize,
    /// The kernel's thread id, for `framework_get_reactors`.
    tid: AtomicU64,
    time: Line<Time>,
}

/// How long its rounds took, in nanoseconds. Only the reactor writes, once in each round.
#[derive(Debug, Default)]
struct Time {
    busy_ns: AtomicU64,
    idle_ns: AtomicU64,
}

impl Time {
    fn add(&self, spent_ns: u64, is_busy: bool) {
        let counter = if is_busy { &self.busy_ns } else { &self.idle_ns };
        // Only the reactor writes, so a plain addition is enough.
        counter.store(counter.load(Ordering::Relaxed) + spent_ns, Ordering::Relaxed);
    }
}

impl Reactor {
    /// Nanoseconds in rounds with work, and in all others (sleep included).
    #[must_use]
    pub fn busy_idle_ns(&self) -> (u64, u64) {
        let Line(time) = &self.time;
        (time.busy_ns.load(Ordering::Relaxed), time.idle_ns.load(Ordering::Relaxed))
    }

    /// The kernel's thread id.
    #[must_use]
    pub fn tid(&self) -> u64 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Polled or adaptive.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.polled.load(Ordering::Relaxed) { Mode::Polled } else { Mode::Adaptive }
    }

    /// Changes the mode. It takes effect within one round.
    pub fn set_mode(&self, mode: Mode) {
        self.polled.store(mode == Mode::Polled, Ordering::Relaxed);
        self.sleeper.wake();
    }

    /// Wakes the reactor if it sleeps. The caller must have a full fence between its work and this
    /// call.
    pub(crate) fn wake_fenced(&self) {
        self.sleeper.wake_fenced();
    }

    pub(crate) fn adopt(&self, thread: Moving) -> Result<()> {
        self.inbox
            .send(thread)
            .map_err(|_| Error::new(libc::ESHUTDOWN, "the reactor has ended"))?;
        self.sleeper.wake();
        Ok(())
    }
}

static REACTORS: OnceLock<Vec<Arc<Reactor>>> = OnceLock::new();

/// All reactors, sorted by core. Empty before [`start`].
#[must_use]
pub fn all() -> &'static [Arc<Reactor>] {
    REACTORS.get().map_or(&[], Vec::as_slice)
}

pub(crate) fn by_core(core: usize) -> Option<&'static Arc<Reactor>> {
    all().iter().find(|reactor| reactor.core == core)
}

/// The OS threads of the running reactors.
#[derive(Debug)]
pub struct Reactors {
    joins: Vec<std::thread::JoinHandle<()>>,
}

/// Starts one reactor for each core, and the app thread on the first one. Only once in a process.
///
/// # Errors
/// `EALREADY` the second time; the system's error when it cannot create a thread.
pub fn start(cores: &CpuSet, mode: Mode) -> Result<Reactors> {
    let inboxes = publish(cores, mode)?;
    let mut joins = Vec::new();
    for (reactor, inbox) in all().iter().zip(inboxes) {
        let reactor = Arc::clone(reactor);
        let name = format!("reactor_{}", reactor.core);
        joins.push(std::thread::Builder::new().name(name).spawn(move || run(&reactor, &inbox))?);
    }
    watch::start();
    Ok(Reactors { joins })
}

/// Creates the reactors of the process and the app thread. Returns the inboxes for arriving
/// threads, in the order of the cores.
fn publish(cores: &CpuSet, mode: Mode) -> Result<Vec<Receiver<Moving>>> {
    let mut reactors = Vec::new();
    let mut inboxes = Vec::new();
    for core in cores.iter() {
        let (inbox, receiver) = unbounded();
        reactors.push(Arc::new(Reactor {
            core,
            sleeper: Sleeper::new()?,
            inbox,
            polled: AtomicBool::new(mode == Mode::Polled),
            stop: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
            tid: AtomicU64::new(0),
            time: Line(Time::default()),
        }));
        inboxes.push(receiver);
    }
    REACTORS
        .set(reactors)
        .map_err(|_| Error::new(libc::EALREADY, "reactors run already in this process"))?;
    thread::create_app(cores)?;
    Ok(inboxes)
}

impl Reactors {
    /// Stops all reactors after their current round and waits for them. The caller must not be on a
    /// reactor.
    pub fn stop(self) {
        for reactor in all() {
            reactor.stop.store(true, Ordering::Release);
            reactor.sleeper.wake();
        }
        for join in self.joins {
            let _ = join.join();
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Reactor>>> = const { RefCell::new(None) };
    static ROUNDS_BUSY: Cell<u64> = const { Cell::new(0) };
}

/// The reactor that runs on this OS thread.
pub(crate) fn current() -> Option<Arc<Reactor>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Ends the process when the host's own code panics on a reactor. Otherwise the disks of that
/// reactor would hang. Panics of plugins are caught inside of their library.
struct EndOfProcess;

impl Drop for EndOfProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut out = std::io::stderr();
            let _ = writeln!(out, "drivebay: a reactor panicked (above); the process ends");
            std::process::abort();
        }
    }
}

fn run(reactor: &Arc<Reactor>, inbox: &Receiver<Moving>) {
    let _end = EndOfProcess;
    pin(reactor.core);
    // SAFETY: gettid has no arguments and cannot fail.
    let tid = unsafe { libc::gettid() };
    reactor.tid.store(u64::try_from(tid).unwrap_or(0), Ordering::Relaxed);
    CURRENT.set(Some(Arc::clone(reactor)));
    let mut threads: Vec<Rc<Thread>> = Vec::new();
    let mut last_busy = clock::refresh();
    let mut round_began = last_busy;
    while !reactor.stop.load(Ordering::Acquire) {
        // Two loads when no thread arrives; `try_recv` would be an atomic operation.
        while !inbox.is_empty()
            && let Ok(thread) = inbox.try_recv()
        {
            threads.push(thread.settle(reactor));
            reactor.threads.store(threads.len(), Ordering::Relaxed);
        }
        let mut busy = false;
        for thread in &threads {
            busy |= thread.round(thread::MESSAGES_PER_ROUND);
        }
        if threads.iter().any(|thread| thread.is_leaving()) {
            leave(&mut threads);
            reactor.threads.store(threads.len(), Ordering::Relaxed);
            busy = true;
        }
        let now = clock::refresh();
        reactor.time.0.add(now - round_began, busy);
        round_began = now;
        if busy {
            last_busy = now;
        } else if !reactor.polled.load(Ordering::Relaxed) && now - last_busy > SPIN_NS {
            let caller = sleep_until_woken(reactor, inbox, &threads);
            // The sleep counts as idle, whatever the next round finds.
            let woke = clock::refresh();
            reactor.time.0.add(woke - round_began, false);
            round_began = woke;
            // The thread that caused the wake-up runs first. After a sleep the caches are cold, and
            // every other poller costs microseconds.
            if let Some(index) = threads.iter().position(|thread| Some(thread.id()) == caller) {
                threads.swap(0, index);
            }
        }
    }
    for thread in threads {
        thread.end();
    }
}

/// Removes the threads that exit or move to another core.
fn leave(threads: &mut Vec<Rc<Thread>>) {
    let mut index = 0;
    while let Some(thread) = threads.get(index) {
        if thread.is_leaving() {
            let thread = threads.swap_remove(index);
            thread.depart();
        } else {
            index += 1;
        }
    }
}

/// Sleeps unless there is work. Returns the thread whose descriptor ended the sleep.
fn sleep_until_woken(
    reactor: &Reactor,
    inbox: &Receiver<Moving>,
    threads: &[Rc<Thread>],
) -> Option<u64> {
    reactor.sleeper.announce();
    let work = !inbox.is_empty()
        || reactor.stop.load(Ordering::Acquire)
        || reactor.polled.load(Ordering::Relaxed)
        || threads.iter().any(|thread| thread.prepare_sleep())
        // Last, because a poller may send a message while it prepares.
        || threads.iter().any(|thread| thread.has_messages());
    if work {
        reactor.sleeper.revoke();
        return None;
    }
    let deadline = threads.iter().filter_map(|thread| thread.next_deadline()).min();
    reactor.sleeper.wait(deadline, clock::precise_now())
}

/// Pins the calling OS thread. If the core does not exist, the thread stays unpinned and the host
/// logs a warning.
fn pin(core: usize) {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE by CpuSet's limit, and the set is ours.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is valid for the call; 0 means the calling thread.
    let status =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if status != 0 {
        tracing::warn!(core, "reactor is not pinned: {}", std::io::Error::last_os_error());
    }
}
