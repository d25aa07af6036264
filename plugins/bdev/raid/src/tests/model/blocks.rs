//! The values that the blocks of an array may have.

use super::super::Random;
use super::{REGION, STRIP};
use drivebay_spec_raid::Level;
use std::collections::BTreeMap;

/// Values that a block may have; `None` = anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values(Vec<Option<u8>>);

impl Values {
    fn one(value: Option<u8>) -> Self {
        Self(vec![value])
    }

    pub(super) fn may_be(&self, found: u8) -> bool {
        self.is_undefined() || self.0.contains(&Some(found))
    }

    fn is_undefined(&self) -> bool {
        self.0.contains(&None)
    }

    fn add(&mut self, value: u8) {
        if self.0.last() != Some(&Some(value)) {
            self.0.push(Some(value));
        }
    }
}

#[derive(Clone, Debug)]
struct Block {
    /// The values that a read may return.
    now: Values,
    /// The values that the block may have after a power cut.
    durable: Values,
}

/// The blocks that clients wrote.
pub(super) struct Blocks {
    level: Level,
    blocks: BTreeMap<u64, Block>,
}

impl Blocks {
    pub(super) fn new(level: Level) -> Self {
        Self { level, blocks: BTreeMap::new() }
    }

    /// A block near the first blocks of a region, where most writes go.
    pub(super) fn random_place(&self, random: &mut Random) -> u64 {
        random.below(2) * REGION + random.below(2 * STRIP)
    }

    /// First block and number of blocks of a write: the fake bus splits nothing.
    pub(super) fn random_write(&self, random: &mut Random, num_blocks: u64) -> (u64, u64) {
        let near = self.random_place(random);
        // The end of the array, which may have grown.
        let near = if random.below(8) == 0 { num_blocks - 1 - random.below(4) } else { near };
        let unit = match self.level {
            Level::Raid1 => return (near, 1 + random.below(8.min(num_blocks - near))),
            Level::Raid10 => STRIP,
            Level::Raid5f => return (near / (2 * STRIP) * (2 * STRIP), 2 * STRIP),
            // Three data strips in a row.
            _ => 3 * STRIP,
        };
        let left = unit - near % unit;
        let longest = if random.below(6) == 0 { left } else { left.min(5) };
        (near, 1 + random.below(longest))
    }

    pub(super) fn known(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    pub(super) fn random_known(&self, random: &mut Random) -> Option<u64> {
        let count = self.blocks.len() as u64;
        (count > 0).then(|| self.blocks.keys().nth(random.below(count) as usize).copied()).flatten()
    }

    /// A write begins.
    pub(super) fn begin(&mut self, first: u64, fills: &[u8]) {
        for (lba, fill) in (first..).zip(fills) {
            // The members of a level with a log are used disks.
            let unwritten = if self.level.has_log() { None } else { Some(0) };
            let unwritten = Values::one(unwritten);
            let unwritten = Block { now: unwritten.clone(), durable: unwritten };
            let block = self.blocks.entry(lba).or_insert(unwritten);
            block.now.add(*fill);
            block.durable.add(*fill);
        }
    }

    /// A write has succeeded.
    pub(super) fn acknowledge(&mut self, first: u64, fills: &[u8]) {
        let is_durable = self.level.has_log();
        for (lba, fill) in (first..).zip(fills) {
            let Some(block) = self.blocks.get_mut(&lba) else { continue };
            block.now = Values::one(Some(*fill));
            if is_durable {
                block.durable.clone_from(&block.now);
            }
        }
    }

    /// The process ended during a write.
    pub(super) fn interrupt(&mut self, first: u64, count: u64) {
        if self.level == Level::Raid5f {
            // Without a member, a stripe has no defined data then.
            for lba in first..first + count {
                let undefined = Values::one(None);
                self.blocks.insert(lba, Block { now: undefined.clone(), durable: undefined });
            }
        }
    }

    /// The values that a read of the block may return.
    pub(super) fn now(&self, lba: u64) -> Values {
        self.blocks.get(&lba).map(|block| block.now.clone()).unwrap_or_default()
    }

    /// All copies of a block are equal.
    pub(super) fn settle(&mut self, lba: u64, found: u8) {
        if let Some(block) = self.blocks.get_mut(&lba).filter(|block| !block.now.is_undefined()) {
            block.now = Values::one(Some(found));
        }
    }

    /// The values of all blocks now, for [`flushed`](Self::flushed).
    pub(super) fn acknowledged(&self) -> Vec<(u64, Values)> {
        self.blocks.iter().map(|(lba, block)| (*lba, block.now.clone())).collect()
    }

    /// What was acknowledged before a flush is durable.
    pub(super) fn flushed(&mut self, acknowledged: &[(u64, Values)]) {
        for (lba, before) in acknowledged {
            if let Some(block) = self.blocks.get_mut(lba).filter(|block| block.now == *before) {
                block.durable.clone_from(&block.now);
            }
        }
    }

    pub(super) fn lose_power(&mut self) {
        for block in self.blocks.values_mut() {
            if self.level == Level::Raid5f && block.durable.0.len() > 1 {
                block.durable = Values::one(None);
            }
            block.now.clone_from(&block.durable);
        }
    }
}
