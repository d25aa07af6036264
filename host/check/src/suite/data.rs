//! Data that was written reads back unchanged, whatever other I/O runs at the same time.

use crate::batch::{Completed, Io};
use crate::client::{Channel, DEADLINE, status_name, wait};
use crate::guard;
use crate::model::Model;
use crate::random::Random;
use crate::rig::{Made, Rig, channel, close_all, describe, run};
use crate::verdict::{Stop, Verdict, failed, skipped};
use drivebay_plugin_api::*;
use std::ops::Range;

/// The number of blocks that the mix works on.
const WINDOW: u64 = 2048;
/// The maximum number of blocks of one I/O.
const BLOCKS_MAX: u64 = 16;
/// The number of I/Os in one round, all of them in flight together.
const ROUND: usize = 64;

/// Why the data of a disk cannot be checked; `None` = it can.
pub(super) fn unjudged(made: &Made) -> Option<&'static str> {
    if !made.keeps_data() {
        Some("the bdev keeps no data (BAY_BDEV_NO_DATA)")
    } else if !made.is_writable() {
        Some("the bdev cannot be written")
    } else {
        None
    }
}

pub(super) fn mix(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    if let Some(reason) = unjudged(&made) {
        return rig.delete(made).and(skipped(reason));
    }
    let channels = rig.channels(&made)?;
    let rounds = if rig.settings.is_long { 4000 } else { 40 };
    let mut mix = Mix::new(&made, rig.settings.seed);
    mix.rounds(&made, &channels, rounds, Errors::No)?;
    mix.read_all(&made, channels.first())?;
    close_all(channels)?;
    rig.delete(made)
}

/// Data that one thread wrote is read on other threads.
pub(super) fn across_threads(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    if let Some(reason) = unjudged(&made) {
        return rig.delete(made).and(skipped(reason));
    }
    let channels = rig.channels(&made)?;
    let mut mix = Mix::new(&made, rig.settings.seed);
    for writer in &channels {
        let writes = mix.writes_of_all();
        mix.account(&run(writer, writes, 32)?)?;
        for reader in &channels {
            mix.read_all(&made, Some(reader))?;
        }
    }
    close_all(channels)?;
    // The data is still there after the last channel was destroyed and a new one was created.
    let again = channel(&made, rig.lane())?;
    mix.read_all(&made, Some(&again))?;
    close_all(vec![again])?;
    rig.delete(made)
}

/// Whether I/O may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errors {
    No,
    Some,
}

/// A random mix of I/O, and its model.
pub(super) struct Mix {
    model: Model,
    random: Random,
    unit: u64,
    ops: Vec<u16>,
}

impl Mix {
    /// The mix for a disk.
    pub(super) fn new(made: &Made, seed: u64) -> Self {
        let unit = made.write_unit();
        let window = 0..made.num_blocks().min(WINDOW) / unit * unit;
        let maybe = [BAY_OP_WRITE_ZEROES, BAY_OP_UNMAP, BAY_OP_COMPARE, BAY_OP_FLUSH];
        let mut ops = vec![BAY_OP_READ, BAY_OP_READ, BAY_OP_READ, BAY_OP_WRITE, BAY_OP_WRITE];
        ops.extend(maybe.into_iter().filter(|op| made.bdev.declares(*op)));
        Self {
            model: Model::new(seed, made.block_size(), window),
            random: Random::new(seed),
            unit,
            ops,
        }
    }

    /// Runs rounds of I/O on all channels at once. Within a round, no other I/O touches the blocks
    /// of a write.
    ///
    /// # Errors
    /// Data that was read and cannot be there, or I/O that did not complete.
    pub(super) fn rounds(
        &mut self,
        made: &Made,
        channels: &[Channel],
        rounds: u32,
        errors: Errors,
    ) -> Verdict {
        for _ in 0..rounds {
            let mut taken: Vec<Range<u64>> = Vec::new();
            let under_way: Vec<_> = channels
                .iter()
                .map(|channel| {
                    let ios = (0..ROUND).filter_map(|_| self.one(made, &mut taken)).collect();
                    channel.begin(ios, ROUND / 2)
                })
                .collect();
            for answer in &under_way {
                let late = |_| {
                    let seen = format!("{} are still at the module", guard::at_module());
                    Stop::failed("I/O of the mix completes", seen)
                };
                let ended = wait(answer, DEADLINE).map_err(late)?;
                let is_good = |ended: &&Completed| {
                    matches!(
                        (ended.io.op, ended.status),
                        (_, 0) | (BAY_OP_COMPARE, BAY_ST_MISCOMPARE)
                    )
                };
                if let (Errors::No, Some(bad)) = (errors, ended.iter().find(|e| !is_good(e))) {
                    let seen = format!("it ended with {}", status_name(bad.status));
                    return failed(format!("{} completes with success", describe(&bad.io)), seen);
                }
                self.account(&ended)?;
            }
        }
        Ok(())
    }

    /// One I/O that does not overlap with a write of the same round.
    fn one(&mut self, made: &Made, taken: &mut Vec<Range<u64>>) -> Option<Io> {
        let many = self.ops.len() as u64;
        let op = *self.ops.get(usize::try_from(self.random.below(many)).unwrap_or(0))?;
        if op == BAY_OP_FLUSH {
            return Some(Io::new(op, 0, 0));
        }
        let units = 1 + self.random.below((BLOCKS_MAX / self.unit).max(1));
        let places = (self.model.num_blocks() / self.unit).saturating_sub(units).max(1);
        let lba = self.model.first() + self.random.below(places) * self.unit;
        let range = lba..lba + units * self.unit;
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        if taken.iter().any(overlaps) {
            return None;
        }
        taken.push(range.clone());
        let nblocks = range.end - range.start;
        Some(match op {
            BAY_OP_WRITE => {
                let data = self.model.fresh(lba, nblocks);
                let pieces = self.pieces(data.len());
                Io::new(op, lba, nblocks).with(data).in_pieces(pieces)
            }
            BAY_OP_COMPARE => {
                let mut data = self.model.known(lba, nblocks)?;
                if self.random.below(2) == 0 {
                    let at = usize::try_from(self.random.below(data.len() as u64)).unwrap_or(0);
                    data.get_mut(at).into_iter().for_each(|byte| *byte ^= 0x80);
                }
                Io::new(op, lba, nblocks).with(data)
            }
            BAY_OP_READ => {
                let io = made.io(op, lba, nblocks, 0xee);
                let pieces = self.pieces(io.data.len());
                io.in_pieces(pieces)
            }
            _ => Io::new(op, lba, nblocks),
        })
    }

    /// Splits a length into one to three elements.
    fn pieces(&mut self, len: usize) -> Vec<usize> {
        let mut cut = || usize::try_from(self.random.below(len as u64 / 4 + 1)).unwrap_or(0) * 4;
        let (one, two) = (cut(), cut());
        let (low, high) = (one.min(two).min(len), one.max(two).min(len));
        let all = [low, high - low, len - high];
        all.into_iter().filter(|piece| *piece > 0).collect()
    }

    /// Writes that cover the whole window.
    pub(super) fn writes_of_all(&mut self) -> Vec<Io> {
        let each = (BLOCKS_MAX / self.unit).max(1) * self.unit;
        let (first, end) = (self.model.first(), self.model.first() + self.model.num_blocks());
        let starts = (first..end).step_by(usize::try_from(each).unwrap_or(1));
        let one = |lba: u64| {
            let nblocks = each.min(end - lba);
            Io::new(BAY_OP_WRITE, lba, nblocks).with(self.model.fresh(lba, nblocks))
        };
        starts.map(one).collect()
    }

    /// Reads the whole window and checks it.
    ///
    /// # Errors
    /// Data that cannot be there.
    pub(super) fn read_all(&mut self, made: &Made, channel: Option<&Channel>) -> Verdict {
        let Some(channel) = channel else { return Ok(()) };
        let (first, len) = (self.model.first(), self.model.num_blocks());
        let starts = (first..first + len).step_by(64);
        let reads = starts.map(|lba| made.io(BAY_OP_READ, lba, 64.min(first + len - lba), 0xee));
        let ended = run(channel, reads.collect(), 8)?;
        super::completion::all_succeeded(&ended)?;
        self.account(&ended)
    }

    /// Compares completed I/O with the model.
    ///
    /// # Errors
    /// Data that cannot be there.
    pub(super) fn account(&mut self, ended: &[Completed]) -> Verdict {
        for ended in ended {
            if let Err(why) = self.model.account(ended) {
                return failed("what was written is read", why);
            }
        }
        Ok(())
    }
}
