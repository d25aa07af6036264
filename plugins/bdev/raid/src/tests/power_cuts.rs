//! Power cuts at every point of every change of an array.
//!
//! The test runs an act on disks that log their writes and flushes. Each prefix of the log stands for a power cut: the images of the disks
//! contain everything that a disk had flushed, and a random part of the later writes. The test assembles the array from these images. Data
//! that clients flushed must read back, all copies must become equal, and nothing else on the disks may change.

mod after;

use self::after::After;
use super::ram::{Block, Event, Log, Ram};
use super::{Random, load, show, write_each};
use crate::{arrays, intent};
use drivebay_sdk::App;
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::{Layout, Level};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Blocks of the superblock, of both copies of the record, and of the row log, which only some levels have.
const METADATA: [std::ops::Range<usize>; 4] = [0..2, 1024..1032, 1536..1544, 2048..2688];

/// Blocks before the data: the superblock, the record and the row log are there.
fn data_offset(level: Level) -> usize {
    if level.has_log() { 2688 } else { 2048 }
}

/// Blocks by which the members of an array grow.
const GROWN: usize = 16;

/// The number of power cuts of a test: `cuts`, or 25 times as many in the long form. All tests together make 2,600 or 65,000.
fn scaled(cuts: usize) -> usize {
    if std::env::var_os("DRIVEBAY_SOAK").is_some() { 25 * cuts } else { cuts }
}

/// A change of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Create,
    Write,
    /// Writes to a member fail, so the array removes the member.
    Degrade,
    /// A member leaves and returns.
    Return,
    /// The operator removes a member and adds it again while clients write.
    Rebuild,
    /// The operator replaces a member with another bdev.
    Replace,
    /// All members grow, and the array with them.
    Grow,
    /// A raid1 gets another member.
    Widen,
    /// The array sets and clears marks.
    Idle,
    /// The array stops cleanly.
    End,
}

impl Act {
    const OF_ALL: [Self; 4] = [Self::Create, Self::Write, Self::Grow, Self::End];
    const OF_REDUNDANT: [Self; 9] = [
        Self::Create,
        Self::Write,
        Self::Degrade,
        Self::Return,
        Self::Rebuild,
        Self::Replace,
        Self::Grow,
        Self::Idle,
        Self::End,
    ];

    fn of(level: Level, members: usize) -> Vec<Self> {
        if level.may_lose(members as u8) == 0 {
            return Self::OF_ALL.to_vec();
        }
        let widen = (level == Level::Raid1).then_some(Self::Widen);
        Self::OF_REDUNDANT.into_iter().chain(widen).collect()
    }
}

/// What clients did. Numbers are positions in the log.
enum Did {
    Write { begin: usize, lba: usize, fills: Vec<u8> },
    Flush { end: usize },
}

/// An array, its disks, and what clients did.
struct Run<'a> {
    host: &'a FakeHost,
    level: Level,
    name: String,
    /// The members, and one more that may replace one of them.
    disks: Vec<Ram>,
    members: usize,
    /// Data blocks of a member.
    size: usize,
    layout: Layout,
    log: Log,
    history: Vec<Did>,
    random: Random,
}

impl<'a> Run<'a> {
    fn new(host: &'a FakeHost, level: Level, members: usize, act: Act, seed: u64) -> Self {
        let name = format!("cut{level}{seed}");
        // Long enough for 80 windows of a rebuild, so that the array records the rebuild's position.
        // With a row log, there are more rows than slots of the log.
        let is_long = matches!(act, Act::Rebuild | Act::Replace | Act::Widen) || level.has_log();
        let size = if is_long { 160 } else { 24 };
        let plug = |number| {
            let name = format!("{number}{name}");
            let disk = Ram::plug(host, &name, data_offset(level) + size);
            // The images of a disk that grows have its last size from the start. The bus does not know it yet.
            disk.enlarge(if act == Act::Grow { GROWN } else { 0 });
            disk
        };
        let disks: Vec<Ram> = (0..=members).map(plug).collect();
        let strip = if level.has_strips() { 2 } else { 0 };
        let layout = Layout::new(level, strip, &vec![size as u64; members]).unwrap();
        let (log, history) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        let random = Random::new(seed);
        Self { host, level, name, disks, members, size, layout, log, history, random }
    }

    fn create(&self) {
        let names: Vec<String> =
            self.disks[..self.members].iter().map(|disk| disk.name()).collect();
        let params = json!({
            "name": self.name, "raid_level": self.level.name(), "base_bdevs": names, "superblock": true,
            "strip_size_kb": u8::from(self.level.has_strips()),
        });
        self.host.call("bdev_raid_create", &params).unwrap();
    }

    fn delete(&self) {
        self.host.call("bdev_raid_delete", &json!({"name": self.name})).unwrap();
    }

    fn show(&self) -> Value {
        show(self.host, &self.name)
    }

    fn now(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// Blocks of one write: the fake bus splits nothing.
    fn unit(&self) -> usize {
        match self.level {
            Level::Raid1 => 3,
            Level::Raid5f => self.layout.row_blocks() as usize,
            _ => 2,
        }
    }

    fn num_blocks(&self) -> usize {
        self.layout.num_blocks() as usize
    }

    fn write(&mut self, channel: &Channel) {
        let (lba, unit) =
            if self.level.has_log() { self.part_of_a_row() } else { self.whole_unit() };
        let fills: Vec<u8> = (0..unit).map(|_| self.random.below(250) as u8 + 1).collect();
        self.history.push(Did::Write { begin: self.now(), lba, fills: fills.clone() });
        assert_eq!(write_each(self.host, channel, lba as u64, &fills), Status::SUCCESS);
        if self.level.has_log() {
            // What the array acknowledges is durable.
            self.history.push(Did::Flush { end: self.now() });
        } else if self.random.below(3) == 0 {
            let flush = self.host.io(channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
            assert!(flush.status.is_success());
            self.history.push(Did::Flush { end: self.now() });
        }
    }

    fn whole_unit(&mut self) -> (usize, usize) {
        let unit = self.unit();
        let lba = self.random.below((self.num_blocks() / unit) as u64) as usize * unit;
        (lba, unit)
    }

    /// First block and number of blocks of a write to one of a few rows, some of which share a slot of the log.
    fn part_of_a_row(&mut self) -> (usize, usize) {
        let rows = [0, 1, 2, 64, 65, self.layout.num_rows() - 1];
        let row = rows[self.random.below(6) as usize];
        let first = self.random.below(self.layout.row_blocks());
        let nblocks = 1 + self.random.below(self.layout.row_blocks() - first);
        ((row * self.layout.row_blocks() + first) as usize, nblocks as usize)
    }

    fn writes(&mut self, count: usize) {
        let opened = self.host.open(&self.name);
        (0..count).for_each(|_| self.write(&opened.0));
    }

    fn rounds(&mut self, most: u64) {
        (0..self.random.below(most)).for_each(|_| self.host.run());
    }

    fn wait_until_rebuilt(&self) {
        self.host.wait(|| {
            let shown = self.show();
            let is_whole = shown["num_base_bdevs_discovered"] == shown["num_base_bdevs"];
            (shown["process"].is_null() && is_whole).then_some(())
        });
    }

    /// Clears the marks of regions that no client wrote since the last call.
    fn clear_idle(&self) {
        let name = self.name.clone();
        let clear = async move |_: &App| {
            let array = arrays::by_name(&name).unwrap();
            let shared = array.shared.borrow().clone().unwrap();
            intent::clear_idle(&array, &shared).await.unwrap();
        };
        task::spawn_on_app("test", clear).unwrap().detach();
        (0..40).for_each(|_| self.host.run());
    }

    /// Does `act`. Returns the images of the disks at the start of the log.
    fn act(&mut self, act: Act) -> Vec<Vec<u8>> {
        if act != Act::Create {
            self.create();
            self.writes(4);
            self.history.push(Did::Flush { end: 0 });
        }
        let before = self.disks.iter().map(Ram::contents).collect();
        self.disks.iter().enumerate().for_each(|(number, disk)| disk.log_to(number, &self.log));
        // The images contain everything that clients wrote so far, so it counts as flushed.
        for did in &mut self.history {
            if let Did::Write { begin, .. } = did {
                *begin = 0;
            }
        }
        let pick = self.random.below(self.members as u64) as usize;
        let picked = self.disks[pick].clone();
        let add = |run: &Self, disk: &Ram| {
            let add = json!({"raid_bdev": run.name, "base_bdev": disk.name()});
            run.host.call("bdev_raid_add_base_bdev", &add).unwrap();
        };
        match act {
            Act::Create => {
                self.create();
                self.writes(2);
            }
            Act::Write => self.writes(12),
            Act::Degrade => {
                self.writes(2);
                picked.fail_writes(true);
                self.writes(6);
                picked.fail_writes(false);
            }
            Act::Return => {
                picked.unplug(self.host);
                self.writes(3);
                picked.plug_in(self.host);
                self.rounds(60);
                self.writes(2);
                self.wait_until_rebuilt();
            }
            Act::Rebuild | Act::Replace => {
                let gone = json!({"name": picked.name()});
                self.host.call("bdev_raid_remove_base_bdev", &gone).unwrap();
                self.writes(3);
                let new = if act == Act::Replace { &self.disks[self.members] } else { &picked };
                add(self, new);
                self.rounds(200);
                self.writes(2);
                self.wait_until_rebuilt();
                self.writes(1);
            }
            Act::Grow => {
                self.writes(2);
                self.size += GROWN;
                self.disks
                    .iter()
                    .for_each(|disk| disk.grow(self.host, data_offset(self.level) + self.size));
                let sizes = vec![self.size as u64; self.members];
                let strip = if self.level.has_strips() { 2 } else { 0 };
                let larger = Layout::new(self.level, strip, &sizes).unwrap();
                let num_blocks = self.host.open(&self.name).1.info().unwrap().num_blocks();
                let grown = match self.level {
                    // The first members of a concat keep their sizes.
                    Level::Concat => self.layout.num_blocks() + GROWN as u64,
                    _ => larger.num_blocks(),
                };
                assert_eq!(num_blocks, grown, "{}", self.name);
                if self.level != Level::Concat {
                    self.layout = larger;
                }
                self.writes(6);
            }
            Act::Widen => {
                self.writes(2);
                let new = self.disks[self.members].name();
                let grow = json!({"raid_name": self.name, "base_name": new});
                self.host.call("bdev_raid_grow_base_bdev", &grow).unwrap();
                self.rounds(200);
                self.writes(2);
                self.wait_until_rebuilt();
                self.writes(1);
            }
            Act::Idle => {
                self.writes(1);
                (0..3).for_each(|_| self.clear_idle());
                self.writes(2);
                (0..3).for_each(|_| self.clear_idle());
                self.writes(1);
            }
            Act::End => {
                self.writes(3);
                self.delete();
            }
        }
        before
    }

    fn end(&self) {
        if self.show() != Value::Null {
            self.delete();
        }
        self.disks
            .iter()
            .filter(|disk| self.host.registered(&disk.name()).is_some())
            .for_each(|disk| disk.unplug(self.host));
    }

    /// The values that each block may have after a power cut behind `events` of the log: the last flushed value, or a newer one.
    fn legal(&self, events: usize) -> Vec<Vec<u8>> {
        let mut legal = vec![vec![0]; self.num_blocks()];
        for did in &self.history {
            match did {
                Did::Write { begin, lba, fills } if *begin < events || *begin == 0 => {
                    for (block, fill) in legal[*lba..].iter_mut().zip(fills) {
                        block.push(*fill);
                    }
                }
                Did::Flush { end } if *end <= events => {
                    legal.iter_mut().for_each(|block| drop(block.drain(..block.len() - 1)));
                }
                _ => {}
            }
        }
        legal
    }

    /// Images of the disks after a power cut behind `log`.
    fn images(&mut self, before: &[Vec<u8>], log: &[(usize, Event)]) -> Vec<Vec<u8>> {
        let mut images = before.to_vec();
        let mut flushed = vec![0; images.len()];
        for (at, (disk, event)) in log.iter().enumerate() {
            if matches!(event, Event::Flush) {
                flushed[*disk] = at;
            }
        }
        for (at, (disk, event)) in log.iter().enumerate() {
            let Event::Write(lba, blocks) = event else { continue };
            let is_kept = at < flushed[*disk];
            // The disk has all blocks of a write, none, or some.
            let fate = self.random.below(3);
            for (number, block) in blocks.iter().enumerate() {
                let is_there = is_kept || fate == 0 || fate == 1 && self.random.below(2) == 0;
                if is_there {
                    put(&mut images[*disk], lba + number, block);
                }
            }
        }
        images
    }
}

fn put(image: &mut [u8], lba: usize, block: &Block) {
    image[lba * 512..][..512].copy_from_slice(block);
}

/// Cuts the power behind `log`, assembles the array and checks it. Returns whether it started.
fn cut(run: &mut Run<'_>, act: Act, before: &[Vec<u8>], log: &[(usize, Event)]) -> bool {
    let images = run.images(before, log);
    let mut order: Vec<usize> = (0..images.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, run.random.below(last as u64 + 1) as usize);
    }
    let run = &*run;
    let with =
        |(disk, image): (&Ram, &Vec<u8>)| Ram::with_contents(&disk.name(), disk.uuid(), image);
    let disks: Vec<Ram> = run.disks.iter().zip(&images).map(with).collect();
    let what = format!("{} {act:?} behind {} of its events", run.name, log.len());
    let after = After { run, disks, what };
    // With a row log, the loss of a member together with the power leaves no row undefined.
    let lost = after.random_loss(&mut Random::new(log.len() as u64 + 7));
    lost.iter().for_each(|disk| disk.fail_writes(true));
    order.iter().for_each(|number| after.disks[*number].plug_in(run.host));
    (0..10).for_each(|_| run.host.run());
    let shown = run.show();
    let is_online = shown["state"] == "online";
    if is_online {
        let legal = run.legal(log.len());
        let opened = run.host.open(&run.name);
        // A write of a stripe was interrupted without a member: its data there are lost until the operator adds the member.
        let may_be_lost =
            run.level == Level::Raid5f && shown["num_base_bdevs_discovered"] != run.members;
        after.check(&legal, &opened.0, may_be_lost);
        if let Some(disk) = lost {
            disk.fail_writes(false);
            let add = json!({"raid_bdev": run.name, "base_bdev": disk.name()});
            // Another member may be rebuilt first.
            run.host.wait(|| run.host.call("bdev_raid_add_base_bdev", &add).is_ok().then_some(()));
        }
        if may_be_lost {
            // The array refuses bdevs that are members already.
            let mut disks = after.disks.iter();
            let is_added = disks.any(|disk| {
                let add = json!({"raid_bdev": run.name, "base_bdev": disk.name()});
                run.host.call("bdev_raid_add_base_bdev", &add).is_ok()
            });
            assert!(is_added || !run.show()["process"].is_null(), "{}", after.what);
        }
        run.host.wait(|| run.show()["process"].is_null().then_some(()));
        if run.level.may_lose(run.members as u8) > 0 {
            // A repair begins again when the last of two members is rebuilt.
            run.host.wait(|| {
                run.host.advance(Duration::from_secs(6));
                (0..20).for_each(|_| run.host.run());
                (run.show()["process"].is_null() && !after.is_torn()).then_some(())
            });
        }
        after.check(&legal, &opened.0, may_be_lost);
        after.check_copies();
    } else {
        // Only an interrupted creation may leave an incomplete array.
        assert!(act == Act::Create, "{}: {shown}\n{:#?}", after.what, run.host.log());
    }
    after.check_the_rest();
    if shown != Value::Null {
        run.delete();
    }
    after.disks.iter().for_each(|disk| disk.unplug(run.host));
    is_online
}

fn cut_all(level: Level, members: usize, cuts_wanted: usize) {
    let host = load();
    host.call("bdev_raid_set_options", &json!({"process_window_size_kb": 1})).unwrap();
    let acts = &Act::of(level, members);
    let cuts_wanted = scaled(cuts_wanted);
    let mut cuts: BTreeMap<Act, usize> = BTreeMap::new();
    let (mut seed, mut started) = (0, 0);
    while cuts.values().sum::<usize>() < cuts_wanted {
        for act in acts {
            seed += 1;
            let mut run = Run::new(&host, level, members, *act, seed);
            let before = run.act(*act);
            let log = run.log.lock().unwrap().clone();
            run.end();
            // A log's length depends on the act. The step between two cuts grows with the log, so that each act gets the same number of
            // cuts.
            let share = cuts_wanted / acts.len() / 2;
            let step = log.len().div_ceil(share).max(1);
            let first = run.random.below(step as u64) as usize;
            for events in (first..=log.len()).step_by(step) {
                started += usize::from(cut(&mut run, *act, &before, &log[..events]));
                *cuts.entry(*act).or_default() += 1;
            }
        }
    }
    println!("{level}: power cuts {cuts:?}, {started} arrays started");
    assert_eq!(cuts.len(), acts.len(), "not every act was cut: {cuts:?}");
}

#[test]
fn raid0_keeps_what_was_flushed_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid0, 3, 200);
}

#[test]
fn raid1_keeps_what_was_flushed_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid1, 3, 600);
}

#[test]
fn raid10_keeps_what_was_flushed_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid10, 4, 500);
}

#[test]
fn raid5f_keeps_what_was_flushed_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid5f, 3, 600);
}

#[test]
fn raid5_keeps_what_it_acknowledged_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid5, 4, 300);
}

#[test]
fn raid6_keeps_what_it_acknowledged_after_a_power_cut_at_any_point() {
    cut_all(Level::Raid6, 5, 300);
}

#[test]
fn a_superblock_of_two_blocks_that_a_power_cut_tears_starts_its_array() {
    cut_all(Level::Raid1, 5, 100);
}
