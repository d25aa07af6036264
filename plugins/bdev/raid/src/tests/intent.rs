//! The write-intent record: marks before writes, and its use when a member returns and after a crash.

use super::ram::Ram;
use super::{array, load, read, show, write};
use crate::{arrays, intent};
use drivebay_sdk::App;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::Superblock;
use std::time::Duration;

/// Blocks of a region.
const REGION: u64 = 2048;
const NUM_REGIONS: u64 = 8;
/// 1 MiB for the superblock and the record, then the regions.
const NUM_BLOCKS: usize = 2048 + (NUM_REGIONS * REGION) as usize;
const WHOLE: u64 = NUM_REGIONS * REGION * 512;

fn disks(host: &FakeHost, prefix: &str) -> [Ram; 2] {
    ["0", "1"].map(|number| Ram::plug(host, &format!("{prefix}{number}"), NUM_BLOCKS))
}

fn wait_until_rebuilt(host: &FakeHost, name: &str) {
    host.wait(|| {
        let shown = show(host, name);
        let is_whole = shown["num_base_bdevs_discovered"] == shown["num_base_bdevs"];
        (shown["state"] == "online" && shown["process"].is_null() && is_whole).then_some(())
    });
}

/// The regions with a durable mark on a disk.
fn marked(disk: &Ram) -> Vec<u64> {
    disk.durable_intent().map(|intent| intent.regions.iter().collect()).unwrap_or_default()
}

/// Clears the marks of regions that no client wrote since the last call.
fn clear_idle(host: &FakeHost, name: &'static str) {
    let clear = async move |_: &App| {
        let array = arrays::by_name(name).unwrap();
        let shared = array.shared.borrow().clone().unwrap();
        intent::clear_idle(&array, &shared).await.unwrap();
    };
    task::spawn_on_app("test", clear).unwrap().detach();
    (0..100).for_each(|_| host.run());
}

fn same_data(a: &Ram, b: &Ram) -> bool {
    let [a, b] = [a, b].map(Ram::contents);
    a[2048 * 512..] == b[2048 * 512..]
}

/// Unregisters an array and its disks, as the end of the process does.
fn ended(host: &FakeHost, name: &str, disks: &[&Ram]) {
    host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
    disks
        .iter()
        .filter(|disk| host.registered(&disk.name()).is_some())
        .for_each(|d| d.unplug(host));
}

#[test]
fn the_mark_of_a_region_is_durable_before_it_is_written() {
    let host = load();
    let [a, b] = disks(&host, "ia");
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert!(marked(&a).is_empty());
    assert_eq!(write(&host, &opened.0, 3 * REGION - 1, 1, 2), Status::SUCCESS);
    for disk in [&a, &b] {
        assert_eq!(marked(disk), [2, 3]);
        let writes = disk.writes();
        let data = writes.iter().position(|lba| *lba == 2048 + 3 * REGION - 1).unwrap();
        assert!(matches!(writes[data - 1], 1024 | 1536), "{writes:?}");
    }
    // The next write to the regions needs no record.
    let before = a.writes().len();
    assert_eq!(write(&host, &opened.0, 3 * REGION, 2, 1), Status::SUCCESS);
    assert_eq!(a.writes().len(), before + 1);
    drop(opened);
    ended(&host, "ia0-raid1", &[&a, &b]);
    assert!(marked(&a).is_empty(), "an array that ended in order has no marks");
}

#[test]
fn a_member_that_comes_back_gets_only_what_changed() {
    let host = load();
    let [a, b] = disks(&host, "ib");
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 5, 1, 1), Status::SUCCESS);
    b.unplug(&host);
    assert_eq!(write(&host, &opened.0, 3 * REGION + 7, 2, 1), Status::SUCCESS);
    b.plug_in(&host);
    wait_until_rebuilt(&host, "ib0-raid1");
    assert_eq!(show(&host, "ib0-raid1")["last_rebuild"]["copied_bytes"], 2 << 20);
    assert!(same_data(&a, &b));
    // The same over a restart.
    b.unplug(&host);
    assert_eq!(write(&host, &opened.0, 6 * REGION, 3, 1), Status::SUCCESS);
    drop(opened);
    ended(&host, "ib0-raid1", &[&a]);
    b.plug_in(&host);
    a.plug_in(&host);
    wait_until_rebuilt(&host, "ib0-raid1");
    assert_eq!(show(&host, "ib0-raid1")["last_rebuild"]["copied_bytes"], 3 << 20);
    assert!(same_data(&a, &b));
    ended(&host, "ib0-raid1", &[&a, &b]);
}

#[test]
fn a_member_that_something_else_may_have_changed_is_rebuilt_as_a_whole() {
    let host = load();
    let [a, b] = disks(&host, "ic");
    let name = "ic0-raid1";
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 5, 1, 1), Status::SUCCESS);
    b.unplug(&host);
    // The array went on with this member alone: a newer superblock that calls it configured.
    let change = |disk: &Ram, change: &dyn Fn(&mut Superblock)| {
        let mut superblock = disk.durable_superblock().unwrap();
        change(&mut superblock);
        disk.overwrite(0, &superblock.to_bytes());
    };
    assert_eq!(write(&host, &opened.0, 6, 1, 1), Status::SUCCESS);
    change(&b, &|superblock| superblock.sequence += 1);
    b.plug_in(&host);
    wait_until_rebuilt(&host, name);
    assert_eq!(show(&host, name)["last_rebuild"]["copied_bytes"], WHOLE);
    // Another program started the array meanwhile: it increments the sequence number and sets no marks.
    b.unplug(&host);
    drop(opened);
    ended(&host, name, &[&a]);
    change(&a, &|superblock| superblock.sequence += 1);
    a.plug_in(&host);
    b.plug_in(&host);
    wait_until_rebuilt(&host, name);
    assert_eq!(show(&host, name)["last_rebuild"]["copied_bytes"], WHOLE);
    ended(&host, name, &[&a, &b]);
}

#[test]
fn copies_that_differ_after_a_crash_become_equal_and_read_the_same_before_that() {
    let before = load();
    let disks_before = disks(&before, "id");
    let [a, b] = &disks_before;
    let opened = array(&before, "raid1", &[a, b], json!({"superblock": true}));
    assert_eq!(write(&before, &opened.0, 2 * REGION + 1, 1, 1), Status::SUCCESS);
    // The crash: a second write to the block has reached one member only.
    let images = [a, b].map(Ram::contents);
    drop(opened);
    ended(&before, "id0-raid1", &[a, b]);
    for torn in [0, 1] {
        for (number, disk) in disks_before.iter().enumerate() {
            disk.overwrite(0, &images[number]);
            if number == torn {
                disk.overwrite(2048 + 2 * REGION as usize + 1, &[9; 512]);
            }
            disk.plug_in(&before);
        }
        before.wait(|| (show(&before, "id0-raid1")["state"] == "online").then_some(()));
        let opened = before.open("id0-raid1");
        let first = read(&before, &opened.0, 2 * REGION + 1).unwrap();
        for _ in 0..20 {
            assert_eq!(read(&before, &opened.0, 2 * REGION + 1), Ok(first));
        }
        before.wait(|| same_data(a, b).then_some(()));
        drop(opened);
        ended(&before, "id0-raid1", &[a, b]);
    }
}

#[test]
fn after_another_program_has_used_the_array_all_copies_are_made_equal_once() {
    let host = load();
    let [a, b] = disks(&host, "ig");
    let name = "ig0-raid1";
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 5, 1, 1), Status::SUCCESS);
    drop(opened);
    ended(&host, name, &[&a, &b]);
    for disk in [&a, &b] {
        let mut superblock = disk.durable_superblock().unwrap();
        superblock.sequence += 1;
        disk.overwrite(0, &superblock.to_bytes());
    }
    b.overwrite(2048 + 6 * REGION as usize, &[9; 512]);
    let seen = |what: &str| host.log().iter().filter(|line| line.contains(what)).count();
    for _ in 0..2 {
        a.plug_in(&host);
        b.plug_in(&host);
        host.wait(|| (show(&host, name)["state"] == "online").then_some(()));
        host.wait(|| (seen("all copies are equal again") == 1).then_some(()));
        assert!(same_data(&a, &b));
        (0..20).for_each(|_| host.run());
        ended(&host, name, &[&a, &b]);
    }
    assert_eq!(seen("another program has used it"), 1);
}

#[test]
fn a_region_whose_repair_failed_keeps_its_mark_until_its_copies_are_equal() {
    let host = load();
    let [a, b] = disks(&host, "ih");
    let name = "ih0-raid1";
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 3, 1, 1), Status::SUCCESS);
    [&a, &b].iter().for_each(|disk| disk.fail_reads_at(Some(2048 + 3)));
    a.end_writes_with(Some(Status::INVALID));
    assert_eq!(write(&host, &opened.0, 3, 2, 1), Status::INVALID);
    a.end_writes_with(None);
    let is_seen = |what: &str| host.log().iter().any(|line| line.contains(what));
    host.wait(|| is_seen("are not repaired").then_some(()));
    (0..3).for_each(|_| clear_idle(&host, name));
    assert_eq!(marked(&a), [0]);
    [&a, &b].iter().for_each(|disk| disk.fail_reads_at(None));
    host.advance(Duration::from_secs(6));
    host.wait(|| (a.block(2048 + 3) == b.block(2048 + 3)).then_some(()));
    drop(opened);
    ended(&host, name, &[&a, &b]);
}

#[test]
fn copies_become_equal_after_the_only_current_member_fails_a_write_that_a_new_member_took() {
    let host = load();
    let [a, b] = disks(&host, "ij");
    let name = "ij0-raid1";
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 3, 1, 1), Status::SUCCESS);
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "ij1"})).unwrap();
    let c = Ram::plug(&host, "ij2", NUM_BLOCKS);
    // The clock stands still, so the rebuild waits after its first window.
    let slow = json!({"process_window_size_kb": 1024, "process_max_bandwidth_mb_sec": 1});
    host.call("bdev_raid_set_options", &slow).unwrap();
    let add = json!({"raid_bdev": name, "base_bdev": "ij2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    let copied = || show(&host, name)["process"]["progress"]["blocks"].clone();
    host.wait(|| (copied() == REGION).then_some(()));
    a.fail_writes(true);
    assert_eq!(write(&host, &opened.0, 3, 2, 1), Status::IO_ERROR);
    a.fail_writes(false);
    assert_eq!((a.block(2048 + 3), c.block(2048 + 3)), (1, 2));
    for _ in 0..2 * NUM_REGIONS {
        host.advance(Duration::from_secs(1));
        (0..50).for_each(|_| host.run());
    }
    wait_until_rebuilt(&host, name);
    assert!(same_data(&a, &c));
    drop(opened);
    ended(&host, name, &[&a, &c]);
}

#[test]
fn marks_of_regions_that_are_no_longer_written_are_cleared_while_all_members_are_there() {
    let host = load();
    let [a, b] = disks(&host, "ie");
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    let pass = || clear_idle(&host, "ie0-raid1");
    assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
    assert_eq!(write(&host, &opened.0, REGION, 1, 1), Status::SUCCESS);
    pass();
    assert_eq!(marked(&a), [0, 1], "both were written just now");
    assert_eq!(write(&host, &opened.0, REGION, 1, 1), Status::SUCCESS);
    pass();
    assert_eq!(marked(&a), [1]);
    assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
    assert_eq!(marked(&b), [0, 1], "the mark is set again");
    b.unplug(&host);
    (0..3).for_each(|_| pass());
    assert_eq!(marked(&a), [0, 1], "a member is away");
    drop(opened);
    ended(&host, "ie0-raid1", &[&a]);
}

#[test]
fn a_rebuild_goes_on_where_it_was_when_its_member_left() {
    let host = load();
    let [a, b] = disks(&host, "if");
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    for region in 0..NUM_REGIONS {
        assert_eq!(write(&host, &opened.0, region * REGION, region as u8 + 1, 1), Status::SUCCESS);
    }
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "if1"})).unwrap();
    let c = Ram::plug(&host, "if2", NUM_BLOCKS);
    drop(opened);
    // With fewer marks, so that the position matters.
    ended(&host, "if0-raid1", &[&a, &b]);
    let mut record = a.durable_intent().unwrap();
    record.regions = Default::default();
    record.generation += 1;
    for at in [1024, 1536] {
        a.overwrite(at, &record.to_bytes());
    }
    a.plug_in(&host);
    host.wait(|| (show(&host, "if0-raid1")["state"] == "online").then_some(()));
    let slow = json!({"process_window_size_kb": 16, "process_max_bandwidth_mb_sec": 8});
    host.call("bdev_raid_set_options", &slow).unwrap();
    let add = json!({"raid_bdev": "if0-raid1", "base_bdev": "if2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    let done = || show(&host, "if0-raid1")["process"]["progress"]["blocks"].as_u64();
    // The clock of the test advances only here.
    let mut now_ns = 0;
    let mut tick = || {
        now_ns += 10_000_000;
        host.set_now_ns(now_ns);
        host.run();
    };
    while done().unwrap() <= NUM_REGIONS * REGION / 2 {
        tick();
    }
    c.unplug(&host);
    while done().is_some() {
        tick();
    }
    let fast = json!({"process_max_bandwidth_mb_sec": 0});
    host.call("bdev_raid_set_options", &fast).unwrap();
    c.plug_in(&host);
    wait_until_rebuilt(&host, "if0-raid1");
    let copied = show(&host, "if0-raid1")["last_rebuild"]["copied_bytes"].as_u64().unwrap();
    assert!((1..WHOLE * 3 / 4).contains(&copied), "{copied} of {WHOLE} bytes");
    assert!(same_data(&a, &c));
    ended(&host, "if0-raid1", &[&a, &c]);
}
