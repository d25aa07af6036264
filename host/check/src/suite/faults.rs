//! Faults of the disk below a filter, from a seed.

use super::data::{Errors, Mix, unjudged};
use crate::base::Faults;
use crate::client::status_name;
use crate::rig::{Rig, close_all, run};
use crate::verdict::{Stop, Verdict, failed, skipped};
use drivebay_plugin_api::*;

/// A filter may hide an error if it has another way to the data, but it must not invent data.
pub(super) fn errors(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let Some(base) = rig.base else { return skipped("the disk is not built on the suite's disk") };
    if let Some(reason) = unjudged(&made) {
        return rig.delete(made).and(skipped(reason));
    }
    let channels = rig.channels(&made)?;
    let Some(channel) = channels.first() else { return skipped("there is no reactor") };
    let mut mix = Mix::new(&made, rig.settings.seed);
    let writes = mix.writes_of_all();
    mix.account(&run(channel, writes, 16)?)?;

    base.set_faults(Faults { io_error: 1024, ..Faults::default() });
    let reads = (0..64).map(|lba| made.io(BAY_OP_READ, lba * made.write_unit(), 1, 0xee));
    let ended = run(channel, reads.collect(), 16);
    base.set_faults(Faults::default());
    let ended = ended?;
    if let Some(positive) = ended.iter().find(|ended| ended.status > 0) {
        return failed("a status is 0 or negative", status_name(positive.status));
    }
    mix.account(&ended).map_err(|stop| in_phase("every read of the base failed", stop))?;

    base.set_faults(Faults { io_error: 100, late: 300, no_memory: 50 });
    let rounds = if rig.settings.is_long { 1000 } else { 40 };
    let mixed = mix.rounds(&made, &channels, rounds, Errors::Some);
    base.set_faults(Faults::default());
    mixed.map_err(|stop| in_phase("some I/O of the base failed", stop))?;
    mix.read_all(&made, channels.first())?;
    close_all(channels)?;
    rig.delete(made)
}

fn in_phase(when: &str, stop: Stop) -> Stop {
    match stop {
        Stop::Failed { expected, seen } => {
            Stop::Failed { expected, seen: format!("{seen} ({when})") }
        }
        skipped @ Stop::Skipped(_) => skipped,
    }
}

/// Late completions and refusals for lack of memory are not errors.
pub(super) fn late(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let Some(base) = rig.base else { return skipped("the disk is not built on the suite's disk") };
    if let Some(reason) = unjudged(&made) {
        return rig.delete(made).and(skipped(reason));
    }
    let channels = rig.channels(&made)?;
    let mut mix = Mix::new(&made, rig.settings.seed);
    base.set_faults(Faults { io_error: 0, late: 600, no_memory: 150 });
    let rounds = if rig.settings.is_long { 1000 } else { 40 };
    let mixed = mix.rounds(&made, &channels, rounds, Errors::No);
    base.set_faults(Faults::default());
    mixed?;
    mix.read_all(&made, channels.first())?;
    close_all(channels)?;
    rig.delete(made)
}
