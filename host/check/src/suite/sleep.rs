//! An idle host sleeps, and the event that it waits for wakes it.

use crate::client::wait;
use crate::guard;
use crate::random::Random;
use crate::rig::{Rig, close_all};
use crate::verdict::{Verdict, failed, skipped};
use drivebay_core::reactor;
use drivebay_plugin_api::*;
use std::time::Duration;

/// How long to wait until nothing happens any more.
const SETTLE: Duration = Duration::from_millis(50);
/// How long the host is left idle.
const IDLE: Duration = Duration::from_millis(400);
/// How much of this time may be spent awake, in percent.
const BUSY_PERCENT_MAX: u64 = 10;
/// How long an I/O may take when nothing else happens.
const ALONE: Duration = Duration::from_secs(2);
/// The longest pause before the I/O, in microseconds. The reactor spins for 50 before it sleeps.
const PAUSE_US: u64 = 3000;

pub(super) fn idle(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channels = rig.channels(&made)?;
    let verdict = sleeps();
    verdict.and(close_all(channels)).and(rig.delete(made))
}

/// Leaves the host idle and measures what its reactors do.
pub(super) fn sleeps() -> Verdict {
    let pollers = guard::only_polled();
    if pollers > 0 {
        let reason = format!(
            "{pollers} pollers have no prepare_sleep: the plugin declares that it is polled"
        );
        return skipped(reason);
    }
    std::thread::sleep(SETTLE);
    let before = awake_ns();
    std::thread::sleep(IDLE);
    let spent_ns = awake_ns().saturating_sub(before);
    let reactors = reactor::all().len().max(1) as u64;
    let whole_ns = u64::try_from(IDLE.as_nanos()).unwrap_or(u64::MAX) * reactors;
    let percent = spent_ns * 100 / whole_ns;
    if percent > BUSY_PERCENT_MAX {
        let expected =
            format!("reactors without work are awake at most {BUSY_PERCENT_MAX} % of the time");
        return failed(expected, format!("they were awake {percent} %: a poller keeps them awake"));
    }
    Ok(())
}

/// The time in which the reactors used cores or waited for one, in nanoseconds. All other time is
/// sleep.
fn awake_ns() -> u64 {
    let of = |tid: u64| {
        let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).ok()?;
        let times = text.split_whitespace().take(2).map_while(|time| time.parse::<u64>().ok());
        Some(times.sum::<u64>())
    };
    reactor::all().iter().filter_map(|reactor| of(reactor.tid())).sum()
}

/// One I/O at a time, each after a pause in which the reactor may have gone to sleep or may be
/// about to.
pub(super) fn wakes(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channels = rig.channels(&made)?;
    let mut random = Random::new(rig.settings.seed);
    let rounds = if rig.settings.is_long { 2000 } else { 40 };
    for round in 0..rounds {
        let Some(channel) = channels.get(round % channels.len()) else { break };
        std::thread::sleep(Duration::from_micros(random.below(PAUSE_US)));
        let op = if made.is_writable() && round % 2 == 0 { BAY_OP_WRITE } else { BAY_OP_READ };
        let answer = channel.begin(vec![made.io(op, 0, made.write_unit(), 1)], 1);
        if wait(&answer, ALONE).is_ok() {
            continue;
        }
        // A message wakes the thread even if the thread waits for something else.
        let woken = channel.lane().run(|| ());
        let ended_then = woken.is_ok() && wait(&answer, Duration::from_millis(500)).is_ok();
        let seen = if ended_then {
            "it completed only when something else woke its thread: a wake-up was lost"
        } else {
            "it did not complete"
        };
        let expected = format!("a single I/O completes within {} s", ALONE.as_secs());
        return failed(expected, seen);
    }
    close_all(channels)?;
    rig.delete(made)
}
