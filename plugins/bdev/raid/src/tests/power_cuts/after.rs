//! What an array holds that the plugin assembles from the images of a power cut.

use super::super::Random;
use super::super::ram::Ram;
use super::{METADATA, Run, data_offset};
use crate::arrays;
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::{Layout, Level, Member, MemberState, Superblock, fill_parity};
use std::collections::BTreeMap;

/// An array that the plugin assembles from images.
pub(super) struct After<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) disks: Vec<Ram>,
    pub(super) what: String,
}

impl After<'_> {
    /// Reads each unit of blocks in which `is_wanted` holds for a block. Returns the first byte of each block, or its error.
    fn read(
        &self,
        channel: &Channel,
        is_wanted: impl Fn(usize) -> bool,
    ) -> BTreeMap<usize, Result<u8, Status>> {
        let unit = if self.run.level == Level::Raid1 { 8 } else { 2 };
        let mut read = BTreeMap::new();
        let units = (0..self.run.num_blocks()).step_by(unit);
        for lba in units.filter(|lba| (*lba..lba + unit).any(&is_wanted)) {
            let mut data = vec![0; unit * 512];
            let range = Range::new(lba as u64, unit as u64);
            let result = self.run.host.io(channel, Op::Read(range), IoFlags::NONE, &mut data);
            for (number, block) in data.as_chunks::<512>().0.iter().enumerate() {
                let is_whole = block.iter().all(|byte| *byte == block[0]);
                assert!(is_whole, "{}: a block is torn", self.what);
                let is_good = result.status.is_success();
                read.insert(lba + number, if is_good { Ok(block[0]) } else { Err(result.status) });
            }
        }
        read
    }

    pub(super) fn check(&self, legal: &[Vec<u8>], channel: &Channel, may_be_lost: bool) {
        let first = self.read(channel, |_| true);
        for (lba, found) in &first {
            let legal = &legal[*lba];
            match found {
                Ok(byte) => {
                    // Without a member, a stripe whose write was interrupted has no defined data.
                    let is_lost = may_be_lost && legal.len() > 1;
                    let is_legal = legal.contains(byte) || is_lost;
                    assert!(is_legal, "{}: block {lba}: {byte}, not {legal:?}", self.what);
                }
                Err(status) => {
                    let shown = self.run.show();
                    let is_degraded = shown["num_base_bdevs_discovered"] != shown["num_base_bdevs"]
                        || !shown["process"].is_null();
                    let is_lost = may_be_lost && is_degraded && *status == Status::MEDIA;
                    assert!(is_lost, "{}: block {lba}: {status:?}", self.what);
                }
            }
        }
        // A second read returns the same data.
        let again = self.read(channel, |lba| legal[lba].len() > 1);
        let is_same = again.iter().all(|(lba, found)| first[lba] == *found);
        assert!(is_same, "{}: it reads different data again", self.what);
    }

    /// A member that cannot be written from now on, if the array can do without it.
    pub(super) fn random_loss(&self, random: &mut Random) -> Option<&Ram> {
        let superblocks = self.disks.iter().filter_map(Ram::durable_superblock);
        let newest = superblocks.max_by_key(|superblock| superblock.sequence)?;
        let is_current = |member: &Member| member.state == MemberState::Configured;
        let current = newest.members.iter().filter(|member| is_current(member)).count();
        let least = self.run.members - usize::from(self.run.level.parities());
        let wants = self.run.level.has_log() && current > least && random.below(2) == 0;
        let pick = random.below(self.run.members as u64) as u8;
        let entry = newest.member(pick).filter(|member| wants && is_current(member))?;
        // A new array does not start without a member.
        let is_known =
            |disk: &&Ram| disk.uuid() == entry.uuid && disk.durable_superblock().is_some();
        self.disks.iter().filter(|_| self.has_all_superblocks(&newest)).find(is_known)
    }

    fn has_all_superblocks(&self, newest: &Superblock) -> bool {
        let has_one = |member: &Member| {
            let disk = self.disks.iter().find(|disk| disk.uuid() == member.uuid);
            disk.is_some_and(|disk| disk.durable_superblock().is_some())
        };
        let current =
            newest.members.iter().filter(|member| member.state == MemberState::Configured);
        current.into_iter().all(has_one)
    }

    /// Whether some copies may still differ.
    pub(super) fn is_torn(&self) -> bool {
        let array = arrays::by_name(&self.run.name).unwrap();
        let shared = array.shared.borrow();
        let marks = shared.as_ref().and_then(|shared| shared.marks.as_ref());
        marks.is_some_and(|marks| marks.has_torn())
    }

    /// Which disk is in each slot.
    fn by_slot(&self) -> Vec<Option<usize>> {
        let superblocks = self.disks.iter().filter_map(Ram::durable_superblock);
        let newest = superblocks.max_by_key(|superblock| superblock.sequence).unwrap();
        let disk_of = |slot: u8| {
            let entry =
                newest.member(slot).filter(|entry| entry.state == MemberState::Configured)?;
            self.disks.iter().position(|disk| disk.uuid() == entry.uuid)
        };
        (0..newest.num_members).map(disk_of).collect()
    }

    pub(super) fn check_copies(&self) {
        let disks = self.by_slot();
        let wider =
            || Layout::new(Level::Raid1, 0, &vec![self.run.size as u64; disks.len()]).unwrap();
        let layout =
            &if self.run.level == Level::Raid1 { wider() } else { self.run.layout.clone() };
        let block = |slot: u8, lba: u64| {
            disks[usize::from(slot)]
                .map(|disk| self.disks[disk].block(data_offset(self.run.level) + lba as usize))
        };
        if layout.level().parities() > 0 {
            for lba in 0..self.run.size as u64 {
                let row = layout.row(lba / layout.strip_blocks());
                let strips =
                    (0..layout.members()).map(|slot| block(slot, lba).map(|byte| vec![byte]));
                let strips: Vec<Option<Vec<u8>>> = strips.collect();
                for slot in row.parities() {
                    let mut right = vec![0];
                    let is_known = fill_parity(row, row.role(slot), &strips, &mut right);
                    let found = strips[usize::from(slot)].as_ref().filter(|_| is_known);
                    assert!(
                        found.is_none_or(|found| *found == right),
                        "{}: parity of {lba}",
                        self.what
                    );
                }
            }
            return;
        }
        for lba in 0..layout.num_blocks() {
            let copies = layout.copies(lba).filter_map(|place| block(place.member, place.lba));
            let copies: Vec<u8> = copies.collect();
            assert!(
                copies.windows(2).all(|two| two[0] == two[1]),
                "{}: {lba}: {copies:?}",
                self.what
            );
        }
    }

    /// The array writes only to blocks of metadata and data.
    pub(super) fn check_the_rest(&self) {
        for disk in &self.disks {
            let contents = disk.contents();
            let blocks =
                contents.as_chunks::<512>().0.iter().take(data_offset(self.run.level)).enumerate();
            for (lba, block) in blocks {
                let is_metadata = METADATA.iter().any(|range| range.contains(&lba));
                assert!(is_metadata || *block == [0; 512], "{}: block {lba}", self.what);
            }
        }
    }
}
