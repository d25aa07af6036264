//! Every I/O completes once, on its thread, at any depth.

use crate::batch::{Completed, Io};
use crate::client::{DEADLINE, status_name, wait};
use crate::guard;
use crate::random::Random;
use crate::rig::{Made, Rig, channel, close_all, describe, run, until};
use crate::verdict::{Verdict, failed};
use drivebay_plugin_api::*;
use std::time::Duration;

/// How long to wait for a second completion.
const LATE_MS: u64 = 30;

/// Reads and writes at random places, one unit each.
pub(super) fn some(made: &Made, random: &mut Random, many: usize) -> Vec<Io> {
    let unit = made.write_unit();
    let places = made.num_blocks() / unit;
    let writes = made.is_writable();
    let one = |random: &mut Random| {
        let op = if writes && random.below(2) == 0 { BAY_OP_WRITE } else { BAY_OP_READ };
        made.io(op, random.below(places) * unit, unit, 7)
    };
    (0..many).map(|_| one(random)).collect()
}

/// Checks that all I/O succeeded.
///
/// # Errors
/// The first I/O that failed.
pub(super) fn all_succeeded(ended: &[Completed]) -> Verdict {
    match ended.iter().find(|ended| ended.status != 0) {
        None => Ok(()),
        Some(bad) => failed(
            format!("{} completes with success", describe(&bad.io)),
            format!("it ended with {}", status_name(bad.status)),
        ),
    }
}

/// The guard detects a second completion; this check gives it time to arrive.
pub(super) fn once(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let mut random = Random::new(rig.settings.seed);
    for depth in [1, 32] {
        all_succeeded(&run(&channel, some(&made, &mut random, 256), depth)?)?;
    }
    std::thread::sleep(Duration::from_millis(LATE_MS));
    guard::check_retired();
    if !until(|| guard::at_module() == 0) {
        return failed("every I/O completed", format!("{} have not", guard::at_module()));
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

/// Uses one thread after another. The guard detects a completion on another thread.
pub(super) fn on_its_thread(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channels = rig.channels(&made)?;
    let mut random = Random::new(rig.settings.seed);
    for channel in &channels {
        all_succeeded(&run(channel, some(&made, &mut random, 64), 8)?)?;
    }
    close_all(channels)?;
    rig.delete(made)
}

pub(super) fn depths(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let mut random = Random::new(rig.settings.seed);
    for depth in [1, 2, 7, 32, 128, 1024] {
        let many = if rig.settings.is_long { 8 * depth.max(512) } else { 2 * depth };
        for part in some(&made, &mut random, many).chunks(4096) {
            all_succeeded(&run(&channel, part.to_vec(), depth)?)?;
        }
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

pub(super) fn threads(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channels = rig.channels(&made)?;
    let mut random = Random::new(rig.settings.seed);
    let rounds = if rig.settings.is_long { 64 } else { 4 };
    for _ in 0..rounds {
        let under_way: Vec<_> = channels
            .iter()
            .map(|channel| channel.begin(some(&made, &mut random, 512), 64))
            .collect();
        for answer in &under_way {
            match wait(answer, DEADLINE) {
                Ok(ended) => all_succeeded(&ended)?,
                Err(_) => {
                    let seen = format!("{} are still at the module", guard::at_module());
                    return failed("I/O of all threads completes", seen);
                }
            }
        }
    }
    close_all(channels)?;
    rig.delete(made)
}
