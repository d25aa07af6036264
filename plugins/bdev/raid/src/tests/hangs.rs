//! Members that hang, bad blocks under the write-intent record, and the task that clears its marks.

use super::ram::Ram;
use super::{array, deleted, load, read, show, write};
use crate::{arrays, members};
use drivebay_sdk::App;
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::MemberState;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const REGION: u64 = 2048;
const NUM_BLOCKS: usize = 2048 + 4 * REGION as usize;
/// First blocks of the two copies of the record.
const RECORDS: [u64; 2] = [1024, 1536];

/// Begins a write of one block. At its end, the cell gets whether it succeeded.
fn begin_write(desc: &Arc<Desc>, lba: u64, fill: u8) -> Rc<Cell<Option<bool>>> {
    let io = BlockIo::new(desc).unwrap();
    let ended = Rc::new(Cell::new(None));
    let end = Rc::clone(&ended);
    let write = async move {
        let mut buf = io.buffer(1).unwrap();
        buf.fill(fill);
        end.set(Some(io.write(Range::new(lba, 1), buf).await.is_ok()));
    };
    task::spawn("test write", write).unwrap().detach();
    ended
}

/// Begins to remove a member. The cell becomes true when the removal has ended.
pub(super) fn begin_removal(name: &str, slot: u8) -> Rc<Cell<bool>> {
    let name = name.to_owned();
    let done = Rc::new(Cell::new(false));
    let (sender, receiver) = task::oneshot::channel();
    let retire = async move |app: &App| {
        let array = arrays::by_name(&name).unwrap();
        let serial = array.members().iter().find(|(number, _)| *number == slot).unwrap().1.serial;
        members::retire(app, &array, serial, MemberState::Missing).await.unwrap();
        let _ = sender.send(());
    };
    task::spawn_on_app("test removal", retire).unwrap().detach();
    let end = Rc::clone(&done);
    task::spawn("test removal ended", async move { end.set(receiver.await.is_ok()) })
        .unwrap()
        .detach();
    done
}

pub(super) fn rounds(host: &FakeHost) {
    (0..50).for_each(|_| host.run());
}

#[test]
fn a_member_that_hangs_is_taken_out_and_keeps_only_the_io_that_it_has() {
    let host = load();
    let [a, b] = ["ha0", "ha1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let name = "ha0-raid1";
    let (channel, desc) = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &channel, 0, 1, 1), Status::SUCCESS);
    let desc = Arc::new(desc);
    b.hang();
    let stuck = begin_write(&desc, 1, 2);
    // The write of this region's record waits for the member, too.
    let to_idle_region = begin_write(&desc, REGION, 3);
    rounds(&host);
    assert_eq!((stuck.get(), to_idle_region.get()), (None, None));
    let removed = begin_removal(name, 1);
    rounds(&host);
    assert_eq!((stuck.get(), to_idle_region.get()), (None, Some(true)));
    assert_eq!(write(&host, &channel, 2 * REGION, 4, 1), Status::SUCCESS);
    assert_eq!(a.durable_superblock().unwrap().member(1).unwrap().state, MemberState::Missing);
    assert!(!removed.get(), "it waits for the I/O for a while");
    host.advance(Duration::from_secs(6));
    rounds(&host);
    assert!(removed.get(), "it gave up");
    // The members change again while the former member still has the write.
    let c = Ram::plug(&host, "ha2", NUM_BLOCKS);
    assert_eq!(stuck.get(), None);
    b.answer();
    rounds(&host);
    assert_eq!(stuck.get(), Some(true));
    let add = json!({"raid_bdev": name, "base_bdev": "ha2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    host.wait(|| show(&host, name)["process"].is_null().then_some(()));
    assert_eq!([1, REGION, 2 * REGION].map(|lba| c.block(2048 + lba as usize)), [2, 3, 4]);
    // No descriptor is left, so the bdev can be removed.
    b.unplug(&host);
    drop(channel);
    drop(desc);
    host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
}

#[test]
fn a_member_that_hangs_at_the_start_delays_other_arrays_only_for_a_while() {
    let host = load();
    let [a, b, c, d] = ["hs0", "hs1", "hs2", "hs3"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    for (first, second) in [(&a, &b), (&c, &d)] {
        let opened = array(&host, "raid1", &[first, second], json!({"superblock": true}));
        assert_eq!(write(&host, &opened.0, 1, 5, 1), Status::SUCCESS);
        drop(opened);
        let name = format!("{}-raid1", first.name());
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
        [first, second].iter().for_each(|disk| disk.unplug(&host));
    }
    b.plug_in(&host);
    rounds(&host);
    b.hang();
    [&a, &c, &d].iter().for_each(|disk| disk.plug_in(&host));
    rounds(&host);
    assert_eq!(show(&host, "hs0-raid1")["state"], "configuring");
    for _ in 0..4 {
        host.advance(Duration::from_secs(8));
        rounds(&host);
    }
    for name in ["hs0-raid1", "hs2-raid1"] {
        assert_eq!(show(&host, name)["state"], "online", "{name}");
        assert_eq!(read(&host, &host.open(name).0, 1), Ok(5));
    }
    assert_eq!(a.durable_superblock().unwrap().member(1).unwrap().state, MemberState::Failed);
    b.answer();
    rounds(&host);
    b.unplug(&host);
    for name in ["hs0-raid1", "hs2-raid1"] {
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
    }
}

#[test]
fn an_array_that_needs_a_member_that_hangs_at_the_start_starts_when_the_member_answers() {
    let host = load();
    let [a, b] = ["hr0", "hr1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let more = json!({"strip_size_kb": 1, "superblock": true});
    let opened = array(&host, "raid0", &[&a, &b], more);
    assert_eq!(write(&host, &opened.0, 1, 5, 1), Status::SUCCESS);
    drop(opened);
    host.call("bdev_raid_delete", &json!({"name": "hr0-raid0"})).unwrap();
    [&a, &b].iter().for_each(|disk| disk.unplug(&host));
    b.plug_in(&host);
    rounds(&host);
    b.hang();
    a.plug_in(&host);
    rounds(&host);
    let advance = |times: u32| {
        for _ in 0..times {
            host.advance(Duration::from_secs(8));
            rounds(&host);
        }
    };
    advance(4);
    let shown = show(&host, "hr0-raid0");
    assert_eq!(
        (&shown["state"], &shown["num_base_bdevs_discovered"]),
        (&json!("configuring"), &json!(2))
    );
    b.answer();
    advance(4);
    assert_eq!(show(&host, "hr0-raid0")["state"], "online");
    assert_eq!(read(&host, &host.open("hr0-raid0").0, 1), Ok(5));
    host.call("bdev_raid_delete", &json!({"name": "hr0-raid0"})).unwrap();
}

#[test]
fn io_that_a_former_member_fails_late_does_not_take_out_the_member_that_has_its_slot_now() {
    let host = load();
    let [a, b, c] = ["hh0", "hh1", "hh2"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let name = "hh0-raid1";
    let (channel, desc) = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &channel, 0, 1, 1), Status::SUCCESS);
    let desc = Arc::new(desc);
    b.hang();
    let stuck = begin_write(&desc, 1, 2);
    rounds(&host);
    let removed = begin_removal(name, 1);
    rounds(&host);
    host.advance(Duration::from_secs(6));
    rounds(&host);
    assert!(removed.get());
    let add = json!({"raid_bdev": name, "base_bdev": "hh2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    host.wait(|| show(&host, name)["process"].is_null().then_some(()));
    assert_eq!(stuck.get(), None);
    b.fail_writes(true);
    b.answer();
    rounds(&host);
    assert_eq!(stuck.get(), Some(true));
    assert_eq!(show(&host, name)["num_base_bdevs_discovered"], 2);
    assert_eq!((a.block(2048 + 1), c.block(2048 + 1)), (2, 2));
    drop(channel);
    drop(desc);
    host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
}

#[test]
fn an_array_with_a_member_that_hangs_does_not_keep_the_marks_of_others() {
    let host = load();
    let [a, b, c, d] = ["hi0", "hi1", "hj0", "hj1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let (stuck_channel, stuck_desc) = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    let opened = array(&host, "raid1", &[&c, &d], json!({"superblock": true}));
    assert_eq!(write(&host, &stuck_channel, 0, 1, 1), Status::SUCCESS);
    assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
    let marks = |disk: &Ram| disk.durable_intent().unwrap().regions.len();
    // No I/O of clients is in flight, so the first array waits for the flush of its member.
    b.hang();
    for _ in 0..3 {
        host.advance(Duration::from_secs(6));
        rounds(&host);
    }
    assert_eq!((marks(&a), marks(&c)), (1, 0));
    b.answer();
    rounds(&host);
    drop((stuck_channel, stuck_desc));
    deleted(&host, "hi0-raid1", host.open("hi0-raid1"));
    deleted(&host, "hj0-raid1", opened);
}

#[test]
fn marks_stay_while_io_hangs_and_are_cleared_after_it() {
    let host = load();
    let [a, b] = ["hb0", "hb1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let (channel, desc) = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &channel, 0, 1, 1), Status::SUCCESS);
    let desc = Arc::new(desc);
    b.hang();
    let stuck = begin_write(&desc, 1, 2);
    for _ in 0..4 {
        host.advance(Duration::from_secs(6));
        rounds(&host);
    }
    assert_eq!(a.durable_intent().unwrap().regions.len(), 1);
    b.answer();
    rounds(&host);
    assert_eq!(stuck.get(), Some(true));
    for _ in 0..4 {
        host.advance(Duration::from_secs(6));
        rounds(&host);
    }
    assert_eq!(a.durable_intent().unwrap().regions.len(), 0);
    drop(desc);
    drop(channel);
    host.call("bdev_raid_delete", &json!({"name": "hb0-raid1"})).unwrap();
}

#[test]
fn a_bad_block_under_the_record_does_not_keep_an_array_from_starting() {
    let host = load();
    let [a, b] = ["hc0", "hc1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let name = "hc0-raid1";
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
    drop(opened);
    let [first, second] = RECORDS;
    for (bad, members) in [(vec![first], 2), (vec![second], 2), (RECORDS.to_vec(), 1)] {
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
        [&a, &b].iter().for_each(|disk| disk.unplug(&host));
        b.set_bad(&bad);
        [&a, &b].iter().for_each(|disk| disk.plug_in(&host));
        host.wait(|| (show(&host, name)["state"] == "online").then_some(()));
        rounds(&host);
        let shown = show(&host, name);
        assert_eq!(shown["num_base_bdevs_discovered"], members, "{bad:?}: {shown}");
        let opened = host.open(name);
        assert_eq!(read(&host, &opened.0, 0), Ok(1));
        assert_eq!(write(&host, &opened.0, 3 * REGION, 5, 1), Status::SUCCESS);
    }
    deleted(&host, name, host.open(name));
}

#[test]
fn one_task_looks_after_the_marks_of_all_arrays_and_ends_with_the_last_one() {
    let host = load();
    let tasks = || {
        let tasks = task::list();
        tasks.iter().filter(|task| task.name == "raid write intent").count()
    };
    let arrays = ["hd", "he", "hf"].map(|prefix| {
        let disks = ["0", "1"].map(|n| Ram::plug(&host, &format!("{prefix}{n}"), NUM_BLOCKS));
        array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}))
    });
    rounds(&host);
    assert_eq!(tasks(), 1);
    for (prefix, opened) in ["hd", "he", "hf"].iter().zip(arrays) {
        deleted(&host, &format!("{prefix}0-raid1"), opened);
    }
    host.advance(Duration::from_secs(6));
    rounds(&host);
    assert_eq!(tasks(), 0);
    // The task has ended with the last array. The next array starts it again.
    let disks = ["hg0", "hg1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let opened = array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}));
    rounds(&host);
    assert_eq!(tasks(), 1);
    deleted(&host, "hg0-raid1", opened);
}
