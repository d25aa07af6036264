//! The watchdog: it names the callback that keeps its reactor from continuing.
//!
//! A thread records what it calls with two plain stores. The watchdog is a separate OS thread. Four
//! times a second it checks whether each awake reactor has ended a round since the last check.

use super::thread::{self, Shared};
use super::{Reactor, all, doing};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the watchdog checks the reactors.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a callback may take before the watchdog names it.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// The watchdog names a callback again when its time has grown by this factor.
const AGAIN_AFTER_TIMES: u32 = 8;

/// Calls of the control path that are under way, with their threads; the innermost is last.
static CALLS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());
/// The callbacks that keep a reactor for too long now.
static STUCK: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call of the control path. It counts as under way until this value is dropped.
#[derive(Debug)]
#[must_use = "the call is under way until this is dropped"]
pub struct Call(u64);

/// Records what the current thread calls, such as `plugin acme: method acme_create`.
pub fn call(what: String) -> Call {
    let thread = thread::current_id();
    lock(&CALLS).push((thread, what));
    Call(thread)
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = lock(&CALLS);
        if let Some(last) = calls.iter().rposition(|(thread, _)| *thread == self.0) {
            calls.remove(last);
        }
    }
}

/// What has kept a reactor for more than a second and still does, as text for people. Any thread.
#[must_use]
pub fn stuck() -> Vec<String> {
    lock(&STUCK).clone()
}

/// Starts the watchdog. If its thread cannot be created, callbacks are not named.
pub(super) fn start() {
    let watchdog = std::thread::Builder::new().name("watchdog".into());
    if let Err(error) = watchdog.spawn(|| watch(all())) {
        tracing::warn!(
            "cannot start the watchdog, so callbacks that do not return will not be named: {error}"
        );
    }
}

/// One reactor, as the watchdog saw it last.
#[derive(Debug)]
struct Seen {
    spent_ns: u64,
    since: Instant,
    /// How long it had waited for a processor by then, in nanoseconds.
    delay_ns: u64,
    /// The time after which the watchdog names the callback again, and the callback that it named last.
    next: Duration,
    named: Option<String>,
}

fn watch(reactors: &[std::sync::Arc<Reactor>]) {
    let mut seen: Vec<Seen> = reactors.iter().map(|reactor| Seen::of(reactor)).collect();
    loop {
        let began = Instant::now();
        std::thread::sleep(LOOK_EVERY);
        // After a pause of the whole process or machine the times mean nothing.
        let is_fresh = began.elapsed() < STUCK_AFTER;
        for (reactor, seen) in reactors.iter().zip(&mut seen) {
            seen.update(reactor, is_fresh);
        }
        *lock(&STUCK) = seen.iter().filter_map(|seen| seen.named.clone()).collect();
    }
}

impl Seen {
    fn of(reactor: &Reactor) -> Self {
        Self {
            spent_ns: spent_ns(reactor),
            since: Instant::now(),
            delay_ns: delay_ns(reactor),
            next: STUCK_AFTER,
            named: None,
        }
    }

    fn update(&mut self, reactor: &Reactor, is_fresh: bool) {
        let is_going_on = spent_ns(reactor) != self.spent_ns || reactor.sleeper.is_waiting();
        if is_going_on || !is_fresh {
            if let Some(named) = &self.named {
                let seconds = self.since.elapsed().as_secs_f64();
                tracing::warn!("{named}: returned after {seconds:.1} s");
            }
            *self = Self::of(reactor);
            return;
        }
        // The time that the thread waited for a processor does not count.
        let delay = Duration::from_nanos(delay_ns(reactor).saturating_sub(self.delay_ns));
        let stuck = self.since.elapsed().saturating_sub(delay);
        if stuck < self.next {
            return;
        }
        let what = what_runs(reactor.core);
        let core = reactor.core;
        let seconds = stuck.as_secs_f64();
        tracing::error!(
            "{what} has not returned for {seconds:.1} s; nothing else can run on core {core}"
        );
        self.next *= AGAIN_AFTER_TIMES;
        self.named = Some(what);
    }
}

/// The time of all its rounds and sleeps that have ended.
fn spent_ns(reactor: &Reactor) -> u64 {
    let (busy, idle) = reactor.busy_idle_ns();
    busy.wrapping_add(idle)
}

/// The time that the reactor's OS thread was ready and waited for a processor: field 2 of
/// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst).
fn delay_ns(reactor: &Reactor) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/task/{}/schedstat", reactor.tid()));
    let field = text.ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    field.unwrap_or(0)
}

/// The callback that runs on a core, with its plugin and thread.
fn what_runs(core: usize) -> String {
    let running = thread::all_shared()
        .into_iter()
        .find(|shared| shared.core() == core && shared.doing().function() != 0);
    running.map_or_else(|| "a thread of the host".to_owned(), describe)
}

fn describe(shared: &Shared) -> String {
    let (thread, doing) = (shared.id(), shared.doing());
    let call =
        lock(&CALLS).iter().rev().find(|(of, _)| *of == thread).map(|(_, what)| what.clone());
    let poller = doing.poller();
    let what = call.unwrap_or_else(|| {
        let file = file_of(doing.function());
        match doing::poller_name(thread, poller) {
            Some(name) => format!("poller {name} of {file}"),
            None => format!("a message of {file}"),
        }
    });
    format!("{what}, on thread {}", shared.name())
}

/// The file name of the library or program that contains an address. For a plugin this is its
/// staged copy, whose name begins with the plugin's name. It is read from `/proc`, because `dladdr`
/// may wait for the loader's lock.
fn file_of(address: usize) -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file = maps.lines().find_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let (from, to) =
            (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        let path = line.split_once('/').map(|(_, path)| path)?;
        (from..to).contains(&address).then(|| path.rsplit('/').next().unwrap_or(path).to_owned())
    });
    file.unwrap_or_else(|| "unknown code".to_owned())
}
