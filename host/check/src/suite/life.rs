//! Reset, hot remove, and bdevs that come and go.

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

/// Times that a bdev is made and deleted.
const AGAIN: u32 = 1000;
/// Of these, so many before it is measured: pools and tables reach their size.
const WARM_UP: u32 = 100;
/// Times that are enough when a bdev takes long to make, unless the run is a long one.
const ENOUGH: u32 = 200;
/// What is long, for all of them.
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
            Err(_) => return failed("a reset ends, with I/O in flight", "it did not"),
        }
        for answer in &under_way {
            // Aborted or not: they end.
            if wait(answer, DEADLINE).is_err() {
                let seen = format!("{} are at the module still", guard::at_module());
                return failed("I/O that a reset met ends", seen);
            }
        }
    }
    // And then it works as before.
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

/// The bdev goes while I/O is in flight on every thread.
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
            return failed("who has the bdev open is told that it goes", "nothing was told");
        }
        for answer in &under_way {
            if wait(answer, DEADLINE).is_err() {
                let seen = format!("{} are at the module still", guard::at_module());
                return failed("I/O in flight ends when its bdev goes", seen);
            }
        }
        let_go(made, channels)?;
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

fn let_go(made: Made, channels: Vec<Channel>) -> Verdict {
    close_all(channels)?;
    drop(made.bdev);
    made.disk.close().map_err(|why| Stop::failed("the descriptor closes", why))
}

/// What is below the filter goes while I/O is there.
pub(super) fn remove_base(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let Some(base) = rig.base else { return skipped("the disk is not over the suite's") };
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
            let seen = format!("{} are at the module still", guard::at_module());
            return failed("I/O in flight ends when the base goes", seen);
        }
    }
    if !until(|| made.disk.events.removes() > 0) {
        return failed("the filter goes when its base goes", "its bdev stays on the bus");
    }
    let_go(made, channels)?;
    if wait(&gone, DEADLINE).is_err() {
        return failed(
            "the filter lets go of its base",
            "it keeps a channel or a descriptor of it",
        );
    }
    if !until(|| guard::bdevs().is_empty()) {
        return failed("the filter's bdev is destructed", "it is not");
    }
    rig.base = None;
    // A filter may wait for its base to come back: it is told not to.
    if let Some(delete) = rig.maker.as_ref().and_then(|maker| maker.delete.clone()) {
        let _ = rig.call(&delete, &json!({ "name": name }));
    }
    Ok(())
}

/// Made, used and deleted until anything that is not given back shows.
pub(super) fn again(rig: &mut Rig<'_>) -> Verdict {
    if rig.maker.as_ref().is_none_or(|maker| maker.create.is_none() || maker.delete.is_none()) {
        return skipped("the plugin has no methods that make and delete a bdev");
    }
    fill_the_guard(rig)?;
    let (mut series, began) = (Series::new(WARM_UP), Instant::now());
    for round in 0..AGAIN {
        series.look(round);
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
    series.verdict("bdevs, made and deleted,")
}

/// As many I/O as the guard keeps ended requests: from then on it grows no more. Checks before this one may have
/// done it, or not.
fn fill_the_guard(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let reads = (0..=guard::request::RESTING).map(|_| made.io(BAY_OP_READ, 0, 1, 0)).collect();
    all_succeeded(&run(&channel, reads, 64)?)?;
    close_all(vec![channel])?;
    rig.delete(made)
}

/// Every entry point, under the eyes of the watchdog.
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
        texts
            .map_err(|_| Stop::failed("the texts of a bdev are written at once", "they are not"))?;
        let channels = rig.channels(&made)?;
        for channel in &channels {
            all_succeeded(&run(channel, some(&made, &mut random, 16), 16)?)?;
            run(channel, vec![Io::new(BAY_OP_RESET, 0, 0), Io::new(BAY_OP_FLUSH, 0, 0)], 1)?;
        }
        close_all(channels)?;
        rig.delete(made)?;
    }
    // The watchdog looks every few milliseconds.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
