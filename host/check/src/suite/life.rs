//! Reset, hot removal, and bdevs that are created and deleted.

use super::completion::{all_succeeded, some};
use super::data::{Errors, Mix, unjudged};
use crate::batch::Io;
use crate::client::{Channel, DEADLINE, Lane, status_name, wait};
use crate::growth::Series;
use crate::guard;
use crate::random::Random;
use crate::rig::{Made, Rig, channel, close_all, run, until};
use crate::verdict::{Stop, Verdict, failed, skipped};
use drivebay_plugin_api::*;
use serde_json::json;
use std::time::{Duration, Instant};

/// How often a bdev is created and deleted.
const AGAIN: u32 = 1000;
/// How many of these come before the measurement, because pools and tables reach their size in
/// them.
const WARM_UP: u32 = 100;
/// How many repetitions are enough when a bdev takes long to create. With `--long` this limit does not apply.
const ENOUGH: u32 = 200;
/// The total time above which the creations count as long.
const TIME: Duration = Duration::from_secs(2);

pub(super) fn reset(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channels = rig.channels(&made)?;
    let mut random = Random::new(rig.settings.seed);
    for _ in 0..if rig.settings.is_long { 100 } else { 5 } {
        let under_way: Vec<_> = channels
            .iter()
            .map(|channel| channel.begin(some(&made, &mut random, 256), 64))
            .collect();
        let Some(first) = channels.first() else { continue };
        let reset = first.begin(vec![Io::new(BAY_OP_RESET, 0, 0)], 1);
        let status = wait(&reset, DEADLINE).map(|all| all.first().map_or(0, |ended| ended.status));
        match status {
            Ok(0) => {}
            Ok(status) => return failed("a reset succeeds", status_name(status)),
            Err(_) => return failed("a reset completes, with I/O in flight", "it did not"),
        }
        for answer in &under_way {
            // Aborted or not, the I/O must complete.
            if wait(answer, DEADLINE).is_err() {
                let seen = format!("{} are still at the module", guard::at_module());
                return failed("I/O that was in flight at a reset completes", seen);
            }
        }
    }
    // After the reset the disk works as before.
    if let (None, Some(channel)) = (unjudged(&made), channels.first()) {
        let mut mix = Mix::new(&made, rig.settings.seed);
        let writes = mix.writes_of_all();
        mix.account(&run(channel, writes, 16)?)?;
        run(channel, vec![Io::new(BAY_OP_RESET, 0, 0)], 1)?;
        mix.read_all(&made, Some(channel))?;
        mix.rounds(&made, &channels, 4, Errors::No)?;
    }
    close_all(channels)?;
    rig.delete(made)
}

/// The bdev is removed while I/O is in flight on every thread.
pub(super) fn remove(rig: &mut Rig<'_>) -> Verdict {
    let Some(delete) = rig.maker.as_ref().and_then(|maker| maker.delete.clone()) else {
        return skipped("the plugin has no method that deletes a bdev");
    };
    let mut random = Random::new(rig.settings.seed);
    for _ in 0..if rig.settings.is_long { 50 } else { 5 } {
        let made = rig.make()?;
        let channels = rig.channels(&made)?;
        let under_way: Vec<_> = channels
            .iter()
            .map(|channel| channel.begin(some(&made, &mut random, 512), 128))
            .collect();
        let deleted = rig.host.begin(&delete, &json!({ "name": made.bdev.name }));
        if !until(|| made.disk.events.removes() > 0) {
            return failed(
                "a client that has the bdev open is told about its removal",
                "it was not told",
            );
        }
        for answer in &under_way {
            if wait(answer, DEADLINE).is_err() {
                let seen = format!("{} are still at the module", guard::at_module());
                return failed("I/O in flight completes when its bdev is removed", seen);
            }
        }
        close_all_of(made, channels)?;
        match wait(&deleted, DEADLINE) {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return failed(format!("{delete} succeeds"), why),
            Err(_) => return failed(format!("{delete} answers"), "it did not"),
        }
        if !until(|| guard::bdevs().is_empty()) {
            return failed("the bdev is destructed", "it is not");
        }
    }
    Ok(())
}

fn close_all_of(made: Made, channels: Vec<Channel>) -> Verdict {
    close_all(channels)?;
    drop(made.bdev);
    made.disk.close().map_err(|why| Stop::failed("the descriptor closes", why))
}

/// The base below the filter is removed while I/O is in flight.
pub(super) fn remove_base(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let Some(base) = rig.base else { return skipped("the disk is not built on the suite's disk") };
    let name = made.bdev.name.clone();
    let channels = rig.channels(&made)?;
    let mut random = Random::new(rig.settings.seed);
    base.hold(true);
    let under_way: Vec<_> =
        channels.iter().map(|channel| channel.begin(some(&made, &mut random, 64), 64)).collect();
    let gone = base.remove();
    std::thread::sleep(Duration::from_millis(5));
    base.hold(false);
    for answer in &under_way {
        if wait(answer, DEADLINE).is_err() {
            let seen = format!("{} are still at the module", guard::at_module());
            return failed("I/O in flight completes when the base is removed", seen);
        }
    }
    if !until(|| made.disk.events.removes() > 0) {
        return failed("the filter is removed with its base", "its bdev stays on the bus");
    }
    close_all_of(made, channels)?;
    if wait(&gone, DEADLINE).is_err() {
        return failed("the filter releases its base", "it still has a channel or a descriptor");
    }
    if !until(|| guard::bdevs().is_empty()) {
        return failed("the filter's bdev is destructed", "it is not");
    }
    rig.base = None;
    // A filter may wait for its base to come back, so the check deletes the filter.
    if let Some(delete) = rig.maker.as_ref().and_then(|maker| maker.delete.clone()) {
        let _ = rig.call(&delete, &json!({ "name": name }));
    }
    Ok(())
}

/// Creates, uses and deletes bdevs until a leak of any resource shows.
pub(super) fn again(rig: &mut Rig<'_>) -> Verdict {
    if rig.maker.as_ref().is_none_or(|maker| maker.create.is_none() || maker.delete.is_none()) {
        return skipped("the plugin has no methods that create and delete a bdev");
    }
    fill_the_guard(rig)?;
    let (mut series, began) = (Series::new(WARM_UP), Instant::now());
    for round in 0..AGAIN {
        series.measure(round);
        if round >= ENOUGH && !rig.settings.is_long && began.elapsed() > TIME && series.is_even() {
            break;
        }
        let made = rig.make()?;
        let lane = rig.lanes.get(round as usize % rig.lanes.len()).copied().unwrap_or(rig.lane());
        let channel = channel(&made, lane)?;
        all_succeeded(&run(&channel, vec![made.io(BAY_OP_READ, 0, 1, 0)], 1)?)?;
        close_all(vec![channel])?;
        rig.delete(made)?;
    }
    series.verdict("bdevs, created and deleted,")
}

/// Submits I/Os until the guard keeps its maximum number of completed requests, so that the guard's memory
/// does not grow during the measurement. Earlier checks may have filled it already.
fn fill_the_guard(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let reads = (0..=guard::request::RESTING).map(|_| made.io(BAY_OP_READ, 0, 1, 0)).collect();
    all_succeeded(&run(&channel, reads, 64)?)?;
    close_all(vec![channel])?;
    rig.delete(made)
}

/// Calls every entry point while the watchdog checks.
pub(super) fn deadline(rig: &mut Rig<'_>) -> Verdict {
    let mut random = Random::new(rig.settings.seed);
    for _ in 0..3 {
        let made = rig.make()?;
        let name = made.bdev.name.clone();
        let texts = Lane::app().run(move || {
            let bdev = drivebay_core::bdev::find(&name)?;
            bdev.reset_module_stats();
            Some((bdev.dump_info(), bdev.config(), bdev.dump_stats()))
        });
        texts.map_err(|_| {
            Stop::failed("the module writes the texts of a bdev at once", "it does not")
        })?;
        let channels = rig.channels(&made)?;
        for channel in &channels {
            all_succeeded(&run(channel, some(&made, &mut random, 16), 16)?)?;
            run(channel, vec![Io::new(BAY_OP_RESET, 0, 0), Io::new(BAY_OP_FLUSH, 0, 0)], 1)?;
        }
        close_all(channels)?;
        rig.delete(made)?;
    }
    // The watchdog checks every few milliseconds.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
