//! One array under random faults, compared with a model of its data.
//!
//! Members fail, hang, leave, return old, and are removed and added; the array grows and is scrubbed; the process is killed, and
//! the power fails. Meanwhile, clients write. The model knows which values each block may have. The seed of a run decides everything.

mod blocks;

use self::blocks::Blocks;
use super::hangs::begin_removal;
use super::ram::{BLOCK, Ram};
use super::{Random, array, load, show};
use crate::array::{Array, State};
use crate::arrays;
use crate::marks::Marks;
use drivebay_sdk::bdev::{Channel, Desc};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::{Level, LogArea};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const STRIP_KB: u64 = 64;
const STRIP: u64 = STRIP_KB * 1024 / BLOCK as u64;
/// Blocks of a region of the write-intent record.
const REGION: u64 = 2048;
const STEPS: u32 = 150;

/// A write that has not ended.
struct Pending {
    first: u64,
    fills: Vec<u8>,
    ended: Rc<Cell<Option<bool>>>,
}

struct Sim {
    host: FakeHost,
    random: Random,
    level: Level,
    name: String,
    /// The members, and one more for a raid1 that gets a slot.
    disks: Vec<Ram>,
    members: usize,
    opened: Option<(Channel, Arc<Desc>)>,
    num_blocks: u64,
    times_grown: u64,
    blocks: Blocks,
    pending: Vec<Pending>,
    /// What the run has done, for the message of a failure.
    steps: Vec<String>,
}

/// Data blocks of a member. Levels with a row log have fewer, because a debug build rebuilds them slowly.
fn data_blocks(level: Level) -> u64 {
    if level.has_log() { REGION / 2 } else { 2 * REGION }
}

impl Sim {
    fn new(level: Level, members: usize, seed: u64) -> Self {
        let host = load();
        host.hold_quiesced();
        let window = json!({"process_window_size_kb": 64});
        host.call("bdev_raid_set_options", &window).unwrap();
        let log =
            if level.has_log() { LogArea::new(STRIP_KB * 1024, BLOCK).end() } else { 1 << 20 };
        let size = data_blocks(level);
        let len = (log / u64::from(BLOCK) + size) as usize;
        let disks: Vec<Ram> =
            (0..=members).map(|n| Ram::plug(&host, &format!("{level}{seed}s{n}"), len)).collect();
        disks[members].unplug(&host);
        if level.has_log() {
            // Used disks: the array has to compute its parity.
            for (disk, number) in disks.iter().zip(1..) {
                let noise = |lba: u64| [(lba * lba * number / 3) as u8; BLOCK as usize];
                let noise: Vec<u8> = (0..size).flat_map(noise).collect();
                disk.overwrite(len - size as usize, &noise);
            }
        }
        let strip = if level.has_strips() { STRIP_KB } else { 0 };
        let all: Vec<&Ram> = disks[..members].iter().collect();
        let more = json!({"superblock": true, "strip_size_kb": strip});
        let (channel, desc) = array(&host, level.name(), &all, more);
        let num_blocks = desc.info().unwrap().num_blocks();
        Self {
            name: format!("{}-{}", disks[0].name(), level.name()),
            host,
            random: Random::new(seed),
            level,
            disks,
            members,
            opened: Some((channel, Arc::new(desc))),
            num_blocks,
            times_grown: 0,
            blocks: Blocks::new(level),
            pending: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
            let rounds = self.random.below(12);
            self.rounds(rounds);
            self.take_ended();
        }
        self.settle();
        self.opened = None;
        self.host.call("bdev_raid_delete", &json!({"name": self.name})).unwrap();
    }

    fn step(&mut self) {
        let pick = self.random.below(self.members as u64) as usize;
        match self.random.below(40) {
            0..=9 => self.begin_write(),
            10..=17 => self.read_some(6),
            18 => self.flush(),
            19 | 20 => self.fail_writes(pick),
            21 | 22 => self.unplug(pick),
            23..=25 => self.plug_in(pick),
            26 | 27 => self.add(pick),
            28 | 29 => self.remove(pick),
            30 => self.hang(pick),
            31 => self.fail_reads(pick),
            32 => self.scrub(),
            33 => self.grow(),
            34 => self.add_slot(),
            35 | 36 => self.stop(false),
            37 => self.stop(true),
            38 => self.wait_for_clearing(),
            _ => self.settle(),
        }
    }

    fn note(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        let last = self.steps.len().saturating_sub(40);
        let log = self.host.log();
        let lines = &log[log.len().saturating_sub(60)..];
        panic!(
            "{}: {why}\nsteps: {:#?}\nlog: {lines:#?}\n{:#}",
            self.name,
            &self.steps[last..],
            self.show()
        );
    }

    fn rounds(&self, count: u64) {
        (0..count).for_each(|_| self.host.run());
    }

    #[track_caller]
    fn wait(&self, what: &str, is_done: impl Fn() -> bool) {
        for _ in 0..20_000 {
            if is_done() {
                return;
            }
            self.host.run();
        }
        self.fail(&format!("it waits in vain: {what}"));
    }

    fn show(&self) -> Value {
        show(&self.host, &self.name)
    }

    fn array(&self) -> Option<Rc<Array>> {
        arrays::by_name(&self.name)
    }

    fn slot_of(&self, disk: usize) -> Option<u8> {
        let name = self.disks[disk].name();
        let members = self.array()?.members();
        members.iter().find(|(_, member)| member.name() == name).map(|(slot, _)| *slot)
    }

    fn is_plugged_in(&self, disk: usize) -> bool {
        self.host.registered(&self.disks[disk].name()).is_some()
    }

    /// Whether the array can do without the member. It can do without a bdev that is no member.
    fn survives_without(&self, disk: usize) -> bool {
        self.slot_of(disk)
            .is_none_or(|slot| self.array().is_some_and(|array| array.survives_without(&[slot])))
    }

    fn is_online(&self) -> bool {
        self.array().is_some_and(|array| array.state.get() == State::Online)
    }

    /// Whether the array copies nothing in the background.
    fn is_quiet(&self) -> bool {
        let Some(array) = self.array() else { return false };
        let shared = array.shared.borrow();
        let Some(shared) = &*shared else { return false };
        let is_torn = shared.marks.as_ref().is_none_or(Marks::has_torn);
        let is_rebuilding = array.slots.borrow().iter().any(|slot| slot.is_target);
        !is_torn && !is_rebuilding && !shared.repairs.is_busy()
    }

    /// Whether the array has all of its members and copies nothing in the background.
    fn is_whole(&self) -> bool {
        let has_all =
            |array: Rc<Array>| array.slots.borrow().iter().all(|slot| slot.member.is_some());
        self.is_quiet() && self.array().is_some_and(has_all)
    }

    fn begin_write(&mut self) {
        let (first, count) = self.blocks.random_write(&mut self.random, self.num_blocks);
        let end = first + count;
        let overlaps =
            |other: &Pending| first < other.first + other.fills.len() as u64 && other.first < end;
        if self.pending.iter().any(overlaps) {
            return;
        }
        let fills: Vec<u8> = match self.level {
            // The values of a stripe's blocks matter less than their number.
            Level::Raid5f => vec![self.random.below(250) as u8 + 1; count as usize],
            _ => (0..count).map(|_| self.random.below(250) as u8 + 1).collect(),
        };
        self.note(format!("write {count} blocks at {first}: {:?}…", &fills[..fills.len().min(4)]));
        self.blocks.begin(first, &fills);
        let ended = Rc::new(Cell::new(None));
        let (end, data) = (Rc::clone(&ended), fills.clone());
        let Some((_, desc)) = &self.opened else { return };
        let io = BlockIo::new(desc).unwrap();
        let write = async move {
            let mut buf = io.buffer(data.len() as u64).unwrap();
            let blocks = buf.as_chunks_mut::<{ BLOCK as usize }>().0;
            blocks.iter_mut().zip(&data).for_each(|(block, fill)| block.fill(*fill));
            end.set(Some(io.write(Range::new(first, data.len() as u64), buf).await.is_ok()));
        };
        task::spawn("test write", write).unwrap().detach();
        self.pending.push(Pending { first, fills, ended });
    }

    /// Tells the model which writes have ended.
    #[track_caller]
    fn take_ended(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for write in pending {
            match write.ended.get() {
                None => self.pending.push(write),
                Some(true) => self.blocks.acknowledge(write.first, &write.fills),
                Some(false) => self.fail(&format!("the write at {} failed", write.first)),
            }
        }
    }

    #[track_caller]
    fn wait_for_writes(&mut self) {
        self.wait("writes", || self.pending.iter().all(|write| write.ended.get().is_some()));
        self.take_ended();
    }

    #[track_caller]
    fn read_some(&mut self, count: u64) {
        for _ in 0..count {
            if let Some(lba) = self.blocks.random_known(&mut self.random) {
                self.check(lba);
            }
        }
    }

    #[track_caller]
    fn check(&mut self, lba: u64) {
        let Some((channel, _)) = &self.opened else { return };
        // A write may end meanwhile.
        let before = self.blocks.now(lba);
        let is_pending = self
            .pending
            .iter()
            .any(|write| (write.first..write.first + write.fills.len() as u64).contains(&lba));
        let found = super::read(&self.host, channel, lba);
        self.take_ended();
        match found {
            Ok(found) => {
                if !before.may_be(found) {
                    self.fail(&format!("block {lba} is {found}, not {before:?}"));
                }
                if self.is_quiet() && !is_pending {
                    self.blocks.settle(lba, found);
                }
            }
            // A crash interrupted a write of a stripe.
            Err(Status::MEDIA) if self.level == Level::Raid5f && !self.is_whole() => {}
            Err(status) => self.fail(&format!("block {lba} cannot be read: {status:?}")),
        }
    }

    #[track_caller]
    fn flush(&mut self) {
        self.note("flush");
        let Some((channel, _)) = &self.opened else { return };
        let acknowledged = self.blocks.acknowledged();
        let flushed = self.host.io(channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
        if !flushed.status.is_success() {
            self.fail("the flush failed");
        }
        self.blocks.flushed(&acknowledged);
        self.take_ended();
    }

    #[track_caller]
    fn fail_writes(&mut self, disk: usize) {
        if !self.survives_without(disk) || self.slot_of(disk).is_none() {
            return;
        }
        self.note(format!("writes fail on {disk}"));
        self.disks[disk].fail_writes(true);
        (0..2).for_each(|_| self.begin_write());
        self.wait_for_writes();
        self.rounds(30);
        self.disks[disk].fail_writes(false);
    }

    fn unplug(&mut self, disk: usize) {
        if self.is_plugged_in(disk) && self.survives_without(disk) {
            self.note(format!("unplug {disk}"));
            self.disks[disk].unplug_soon(&self.host);
            let name = self.disks[disk].name();
            self.wait("unplug", || self.host.registered(&name).is_none());
        }
    }

    fn plug_in(&mut self, disk: usize) {
        if !self.is_plugged_in(disk) {
            self.note(format!("plug in {disk}"));
            self.disks[disk].plug_in(&self.host);
        }
    }

    /// Adds a bdev. The answer depends on what the array is doing.
    fn add(&mut self, disk: usize) {
        let add = json!({"raid_bdev": self.name, "base_bdev": self.disks[disk].name()});
        let added = self.host.call("bdev_raid_add_base_bdev", &add);
        self.note(format!("add {disk}: {:?}", added.map_err(|error| error.message)));
    }

    #[track_caller]
    fn remove(&mut self, disk: usize) {
        if self.slot_of(disk).is_none() || !self.survives_without(disk) {
            return;
        }
        self.note(format!("remove {disk}"));
        let removal = json!({"name": self.disks[disk].name()});
        let removed = self.host.call("bdev_raid_remove_base_bdev", &removal);
        if removed.is_err() || self.slot_of(disk).is_some() {
            self.fail(&format!("{disk} is not removed: {removed:?}"));
        }
        self.rounds(30);
        if self.slot_of(disk).is_some() {
            self.fail(&format!("{disk} came back"));
        }
    }

    /// A member hangs during writes, is removed, and answers later.
    #[track_caller]
    fn hang(&mut self, disk: usize) {
        let Some(slot) = self.slot_of(disk).filter(|_| self.survives_without(disk)) else { return };
        self.note(format!("hang {disk}"));
        self.disks[disk].hang();
        (0..3).for_each(|_| self.begin_write());
        let rounds = self.random.below(30);
        self.rounds(rounds);
        let removed = begin_removal(&self.name, slot);
        self.rounds(30);
        self.begin_write();
        self.host.advance(Duration::from_secs(6));
        self.wait("removal", || removed.get());
        self.disks[disk].answer();
        self.wait_for_writes();
    }

    /// A member cannot read some of its blocks.
    #[track_caller]
    fn fail_reads(&mut self, disk: usize) {
        if self.slot_of(disk).is_none() || !self.survives_without(disk) || !self.is_quiet() {
            return;
        }
        self.wait_for_writes();
        let Some(slot) = self.slot_of(disk).filter(|_| self.survives_without(disk)) else { return };
        let offset =
            self.array().map_or(0, |array| array.slots.borrow()[usize::from(slot)].data_offset);
        let bad = offset + self.blocks.random_place(&mut self.random) % data_blocks(self.level);
        self.note(format!("block {bad} of {disk} is bad"));
        self.disks[disk].fail_reads_at(Some(bad));
        self.begin_write();
        self.read_some(12);
        self.wait_for_writes();
        self.wait("repairs", || self.is_quiet());
        self.disks[disk].fail_reads_at(None);
    }

    #[track_caller]
    fn scrub(&mut self) {
        if !self.is_whole() {
            return;
        }
        self.note("scrub");
        let repair = self.random.below(2) == 0;
        let start = json!({"name": self.name, "repair": repair});
        self.host.call("bdev_raid_start_scrub", &start).unwrap();
        self.begin_write();
        self.wait("scrub", || self.show()["scrub"]["state"] != "running");
        let scrub = &self.show()["scrub"];
        let found = (&scrub["differing_blocks"], &scrub["unreadable_blocks"]);
        if found != (&json!(0), &json!(0)) {
            self.fail(&format!("the scrub found {found:?}"));
        }
    }

    #[track_caller]
    fn grow(&mut self) {
        if !self.is_whole() || self.times_grown == 2 {
            return;
        }
        self.note("grow");
        self.times_grown += 1;
        let larger = self.disks[0].num_blocks() + STRIP as usize;
        self.disks.iter().for_each(|disk| disk.grow(&self.host, larger));
        self.wait("growth", || self.size() > self.num_blocks);
        self.num_blocks = self.size();
    }

    fn size(&self) -> u64 {
        self.opened.as_ref().map_or(0, |(_, desc)| desc.info().unwrap().num_blocks())
    }

    fn add_slot(&mut self) {
        if self.level != Level::Raid1 || self.members == self.disks.len() || !self.is_whole() {
            return;
        }
        self.plug_in(self.members);
        let grow = json!({"raid_name": self.name, "base_name": self.disks[self.members].name()});
        let grown = self.host.call("bdev_raid_grow_base_bdev", &grow);
        self.note(format!("add a slot: {:?}", grown.as_ref().map_err(|error| &error.message)));
        self.members += usize::from(grown.is_ok());
    }

    fn wait_for_clearing(&mut self) {
        self.note("6 seconds pass");
        self.host.advance(Duration::from_secs(6));
        self.rounds(20);
    }

    /// Kills the process, or cuts the power, and starts again with some of the members.
    #[track_caller]
    fn stop(&mut self, loses_power: bool) {
        self.note(if loses_power { "power cut" } else { "kill" });
        self.begin_write();
        let rounds = self.random.below(4);
        self.rounds(rounds);
        self.take_ended();
        let may_fail: Vec<usize> = (0..self.members)
            .filter(|disk| self.slot_of(*disk).is_some() && self.survives_without(*disk))
            .collect();
        let needed: Vec<bool> =
            (0..self.disks.len()).map(|disk| self.slot_of(disk).is_some()).collect();
        let images: Vec<_> = self.disks.iter().map(Ram::image).collect();
        for write in &self.pending {
            self.blocks.interrupt(write.first, write.fills.len() as u64);
        }
        // What happens from here on is undone.
        self.wait("writes", || self.pending.iter().all(|write| write.ended.get().is_some()));
        self.pending.clear();
        self.opened = None;
        self.host.call("bdev_raid_delete", &json!({"name": self.name})).unwrap();
        for disk in 0..self.disks.len() {
            if self.is_plugged_in(disk) {
                self.disks[disk].unplug(&self.host);
            }
        }
        for (disk, image) in self.disks.iter().zip(&images) {
            disk.restore(image);
            if loses_power {
                disk.lose_cache(|| self.random.below(2) == 0);
            }
        }
        if loses_power {
            self.blocks.lose_power();
        }
        self.start(&needed, &may_fail);
    }

    #[track_caller]
    fn start(&mut self, needed: &[bool], may_fail: &[usize]) {
        let fails = may_fail.first().filter(|_| self.random.below(4) == 0).copied();
        let fails = fails.map(|_| may_fail[self.random.below(may_fail.len() as u64) as usize]);
        if let Some(disk) = fails {
            self.note(format!("writes fail on {disk} at the start"));
            self.disks[disk].fail_writes(true);
        }
        let mut order: Vec<usize> = (0..self.members).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, self.random.below(last as u64 + 1) as usize);
        }
        for disk in order {
            if needed[disk] || self.random.below(2) == 0 {
                self.plug_in(disk);
                let rounds = self.random.below(30);
                self.rounds(rounds);
            }
        }
        self.rounds(100);
        if !self.is_online() {
            // It may need a member that cannot be written, or one that left just before the stop.
            self.disks.iter().for_each(|disk| disk.fail_writes(false));
            (0..self.members).for_each(|disk| self.plug_in(disk));
            self.rounds(50);
            self.host.advance(Duration::from_secs(16));
            self.wait("the start", || self.is_online());
        }
        self.disks.iter().for_each(|disk| disk.fail_writes(false));
        let (channel, desc) = self.host.open(&self.name);
        self.opened = Some((channel, Arc::new(desc)));
        if self.size() != self.num_blocks {
            self.fail(&format!("it had {} blocks and has {}", self.num_blocks, self.size()));
        }
        self.read_some(20);
    }

    /// Brings all members back, waits until all copies are equal, and checks all blocks.
    #[track_caller]
    fn settle(&mut self) {
        self.note("settle");
        self.wait_for_writes();
        for _ in 0..40 {
            if self.is_whole() {
                break;
            }
            for disk in 0..self.members {
                self.plug_in(disk);
                if self.slot_of(disk).is_none() {
                    self.add(disk);
                }
            }
            self.rounds(400);
            self.host.advance(Duration::from_secs(6));
        }
        if !self.is_whole() {
            self.fail("it does not become whole");
        }
        for lba in self.blocks.known() {
            self.check(lba);
        }
        self.scrub();
        self.wait_for_writes();
    }
}

/// Runs the seeds of a level: a few, or 50 times as many in the long form. `DRIVEBAY_RAID_SEED` names a single one.
fn run_all(level: Level, members: usize) {
    let seeds = match std::env::var("DRIVEBAY_RAID_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed).unwrap(),
        Err(_) if std::env::var_os("DRIVEBAY_SOAK").is_some() => 1..=200,
        Err(_) => 1..=4,
    };
    for seed in seeds {
        Sim::new(level, members, seed).run();
    }
}

#[test]
fn raid1_reads_what_was_written_whatever_happens_to_its_members() {
    run_all(Level::Raid1, 3);
}

#[test]
fn raid10_reads_what_was_written_whatever_happens_to_its_members() {
    run_all(Level::Raid10, 4);
}

#[test]
fn raid5_reads_what_was_written_whatever_happens_to_its_members() {
    run_all(Level::Raid5, 4);
}

#[test]
fn raid6_reads_what_was_written_whatever_happens_to_two_of_its_members() {
    run_all(Level::Raid6, 5);
}

#[test]
fn raid5f_reads_what_was_written_whatever_happens_to_its_members() {
    run_all(Level::Raid5f, 3);
}
