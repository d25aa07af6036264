//! Which entry point of the plugin runs on which OS thread, and since when. The watchdog needs this to name a callback that blocks, and
//! the crash handler to name a callback that crashes.

use crate::breach;
use drivebay_core::reactor::clock;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The maximum number of OS threads that may run plugin code.
const SLOTS: usize = 64;
/// How often the watchdog checks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After this time the watchdog checks whether the thread of a callback sleeps, in nanoseconds.
const SLEPT_NS: u64 = 10_000_000;
/// The same for a thread that waits for a device (state D), in nanoseconds.
const WAITED_NS: u64 = 500_000_000;
/// A callback that computes longer than this is a breach, because no other callback can run. In
/// nanoseconds.
const RAN_NS: u64 = 2_000_000_000;
/// A callback that has not returned after this time counts as hanging, in nanoseconds.
const HANG_NS: u64 = 15_000_000_000;

const RULE: &str = "every callback returns at once and never blocks";

/// An entry point of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// The host's own code.
    None,
    /// `init` or `start`.
    Start,
    /// An RPC method, or other code that runs on the app thread for the plugin.
    Method,
    /// `bay_bdev_ops.submit`.
    Submit,
    /// `bay_bdev_ops.flush`.
    Flush,
    /// `bay_bdev_ops.chan_create`.
    ChanCreate,
    /// `bay_bdev_ops.chan_destroy`.
    ChanDestroy,
    /// `bay_bdev_ops.destruct`.
    Destruct,
    /// `bay_bdev_ops.dump_info`.
    DumpInfo,
    /// `bay_bdev_ops.write_config`.
    WriteConfig,
    /// `bay_bdev_ops.dump_stats`.
    DumpStats,
    /// `bay_bdev_ops.reset_stats`.
    ResetStats,
    /// `bay_bdev_ops.space`.
    Space,
    /// `bay_poller_ops.run`.
    Poll,
    /// `bay_poller_ops.prepare_sleep`.
    PrepareSleep,
    /// `bay_poller_ops.woke`.
    Woke,
    /// `bay_poller_ops.next_ns`.
    NextNs,
    /// `bay_msg.call`.
    Message,
    /// The callback of a child I/O.
    IoCallback,
    /// The callback of an open descriptor.
    Event,
    /// The callback of an asynchronous operation.
    Done,
}

const NAMES: [&str; 21] = [
    "nothing of the plugin",
    "init or start",
    "a method",
    "submit",
    "flush",
    "chan_create",
    "chan_destroy",
    "destruct",
    "dump_info",
    "write_config",
    "dump_stats",
    "reset_stats",
    "space",
    "a poller's run",
    "a poller's prepare_sleep",
    "a poller's woke",
    "a poller's next_ns",
    "a message",
    "the callback of a child I/O",
    "the event callback of a descriptor",
    "a done callback",
];

struct Slot {
    tid: AtomicI32,
    call: AtomicU32,
    since_ns: AtomicU64,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot { tid: AtomicI32::new(0), call: AtomicU32::new(0), since_ns: AtomicU64::new(0) }
}; SLOTS];

thread_local! {
    static OWN: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// The slot of this OS thread; `None` when there are too many threads.
fn own() -> Option<&'static Slot> {
    if let Some(slot) = OWN.get() {
        return Some(slot);
    }
    let tid = nix_tid();
    let slot = TABLE.iter().find(|slot| {
        slot.tid.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    })?;
    OWN.set(Some(slot));
    Some(slot)
}

#[expect(unsafe_code, reason = "calls libc for the kernel's thread id")]
fn nix_tid() -> i32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// A call of an entry point, in progress until this is dropped.
#[derive(Debug)]
pub struct Entered {
    before: u32,
}

/// Records that the plugin is entered on the current OS thread.
#[must_use]
pub fn enter(call: Call) -> Entered {
    let Some(slot) = own() else { return Entered { before: 0 } };
    let before = slot.call.load(Ordering::Relaxed);
    set(slot, call as u32);
    Entered { before }
}

/// Records that the plugin calls the host, so that the plugin's code does not run until this is
/// dropped.
#[must_use]
pub fn leave() -> Entered {
    enter(Call::None)
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(slot) = own() {
            set(slot, self.before);
        }
    }
}

fn set(slot: &Slot, call: u32) {
    let now = if call == 0 { 0 } else { clock::precise_now() };
    slot.since_ns.store(now, Ordering::Release);
    slot.call.store(call, Ordering::Release);
}

pub(crate) fn name(call: u32) -> &'static str {
    usize::try_from(call).ok().and_then(|call| NAMES.get(call)).copied().unwrap_or("a callback")
}

/// The entry point that runs on an OS thread now. Safe in a signal handler.
#[must_use]
pub fn running(tid: i32) -> &'static str {
    let slot = TABLE.iter().find(|slot| slot.tid.load(Ordering::Relaxed) == tid);
    slot.map_or("nothing of the plugin", |slot| name(slot.call.load(Ordering::Relaxed)))
}

/// The entry point that runs on the current OS thread now.
#[must_use]
pub fn running_here() -> &'static str {
    running(nix_tid())
}

/// The function to call when a callback does not return at all.
static ON_HANG: OnceLock<fn(&str)> = OnceLock::new();

/// Starts the watchdog, once in a process. `on_hang` gets a description of the callback that hangs.
pub fn watch(on_hang: fn(&str)) {
    if ON_HANG.set(on_hang).is_err() {
        return;
    }
    let look = || {
        let mut seen = [Seen::default(); SLOTS];
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = clock::precise_now();
            for (slot, seen) in TABLE.iter().zip(&mut seen) {
                seen.check_slot(slot, now);
            }
        }
    };
    // Without a watchdog the deadline of the whole check still applies.
    let _ = std::thread::Builder::new().name("watchdog".into()).spawn(look);
}

/// The state of one call at the last check.
#[derive(Clone, Copy, Default)]
struct Seen {
    since_ns: u64,
    times_asleep: u32,
    is_reported: bool,
}

impl Seen {
    fn check_slot(&mut self, slot: &Slot, now: u64) {
        let (call, since) =
            (slot.call.load(Ordering::Acquire), slot.since_ns.load(Ordering::Acquire));
        if call == 0 || since == 0 {
            return;
        }
        if since != self.since_ns {
            *self = Self { since_ns: since, ..Self::default() };
        }
        let spent = now.saturating_sub(since);
        if spent > HANG_NS {
            let seconds = HANG_NS / 1_000_000_000;
            let seen = format!("{} has not returned for {seconds} s", name(call));
            if let Some(on_hang) = ON_HANG.get() {
                on_hang(&seen);
            }
        }
        if self.is_reported || spent < SLEPT_NS {
            return;
        }
        // Skip these calls, because they include work of the host, which reads, copies and hashes files.
        let is_long = call == Call::Start as u32 || call == Call::Method as u32;
        match state(slot.tid.load(Ordering::Relaxed)) {
            Some('S') => self.times_asleep += 1,
            Some('D') if spent > WAITED_NS && !is_long => {
                self.report(call, "waited for a device", WAITED_NS);
            }
            _ if spent > RAN_NS && !is_long => self.report(call, "ran", RAN_NS),
            _ => self.times_asleep = 0,
        }
        // Report only a thread that sleeps at two checks in a row in the same call, so that a short wait by chance is not reported.
        if self.times_asleep >= 2 && slot.since_ns.load(Ordering::Acquire) == since {
            self.report(call, "blocked: its thread slept", SLEPT_NS);
        }
    }

    /// `least_ns` is a lower bound, not a measurement, so that equal breaches have equal texts.
    fn report(&mut self, call: u32, what: &str, least_ns: u64) {
        self.is_reported = true;
        let ms = least_ns / 1_000_000;
        breach::record(RULE, format!("{} {what} for {ms} ms or more", name(call)));
    }
}

/// The scheduler's state of a thread: R = runs, S = sleeps, D = waits for a device.
fn state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_point_has_its_name() {
        assert_eq!(NAMES.len(), Call::Done as usize + 1);
        assert_eq!(name(Call::Poll as u32), "a poller's run");
        assert_eq!(name(Call::IoCallback as u32), "the callback of a child I/O");
    }

    #[test]
    fn entering_is_nested_and_undone_in_order() {
        std::thread::spawn(|| {
            let submit = enter(Call::Submit);
            assert_eq!(running_here(), "submit");
            let host = leave();
            assert_eq!(running_here(), "nothing of the plugin");
            drop(host);
            assert_eq!(running_here(), "submit");
            drop(submit);
            assert_eq!(running_here(), "nothing of the plugin");
        })
        .join()
        .unwrap();
    }
}
