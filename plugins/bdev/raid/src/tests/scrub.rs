//! Scrubs: what they find, what they repair, and how they stop.

use super::ram::Ram;
use super::{array, deleted, load, show, write_each};
use crate::arrays;
use drivebay_sdk::App;
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// 1 MiB for the superblock, and the data.
const NUM_BLOCKS: usize = 2048 + 2048;

fn fill(host: &FakeHost, channel: &Channel, lba: u64) {
    // Four blocks, in two strips.
    for strip in [0, 2] {
        let fills = [lba as u8 + strip as u8 + 1; 2];
        assert_eq!(write_each(host, channel, lba + strip, &fills), Status::SUCCESS);
    }
}

/// Scrubs an array to its end. Returns what `bdev_raid_get_bdevs` says.
fn scrub(host: &FakeHost, name: &str, repair: bool) -> Value {
    host.call("bdev_raid_start_scrub", &json!({"name": name, "repair": repair})).unwrap();
    host.wait(|| {
        let shown = show(host, name)["scrub"].clone();
        (shown["state"] == "done").then_some(shown)
    })
}

#[test]
fn a_scrub_after_one_that_is_done_checks_all_blocks_of_an_array_that_has_grown() {
    let host = load();
    let disks: [Ram; 2] =
        std::array::from_fn(|number| Ram::plug(&host, &format!("sgrown{number}"), NUM_BLOCKS));
    let opened = array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}));
    assert_eq!(scrub(&host, "sgrown0-raid1", false)["differing_blocks"], 0);
    disks[1].overwrite(2048, &[7; 512]);
    disks.iter().for_each(|disk| disk.grow(&host, NUM_BLOCKS + 2048));
    let has_grown = || opened.1.info().unwrap().num_blocks() == 4096;
    host.wait(|| has_grown().then_some(()));
    assert_eq!(scrub(&host, "sgrown0-raid1", false)["differing_blocks"], 1);
    deleted(&host, "sgrown0-raid1", opened);
}

#[test]
fn a_scrub_reports_blocks_that_differ_or_cannot_be_read_and_repairs_them_if_asked() {
    let host = load();
    for level in ["raid1", "raid10", "raid5f"] {
        let disks: [Ram; 3] = std::array::from_fn(|number| {
            Ram::plug(&host, &format!("sc{level}{number}"), NUM_BLOCKS)
        });
        let strip = u8::from(level != "raid1");
        let more = json!({"strip_size_kb": strip, "superblock": true});
        let opened = array(&host, level, &disks.each_ref(), more);
        let name = format!("sc{level}0-{level}");
        for lba in (0..32).step_by(4) {
            if level == "raid5f" {
                let fills = [lba as u8 + 1, lba as u8 + 2, lba as u8 + 3, lba as u8 + 4];
                assert_eq!(write_each(&host, &opened.0, lba, &fills), Status::SUCCESS);
            } else {
                fill(&host, &opened.0, lba);
            }
        }
        let clean = scrub(&host, &name, false);
        assert_eq!(
            (&clean["differing_blocks"], &clean["unreadable_blocks"]),
            (&json!(0), &json!(0))
        );
        let before = disks.each_ref().map(Ram::contents);

        // Damage the last copy, because the first copy counts as right.
        let wrong = 2048 + 3;
        disks[2].overwrite(wrong, &[0xcc; 512]);
        let changed = disks.each_ref().map(Ram::contents);
        let found = scrub(&host, &name, false);
        assert_eq!(found["differing_blocks"], 1, "{level}: {found}");
        assert_eq!(
            disks.each_ref().map(Ram::contents),
            changed,
            "{level}: a report changes nothing"
        );
        let repaired = scrub(&host, &name, true);
        assert_eq!(
            (&repaired["differing_blocks"], &repaired["repaired_blocks"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(scrub(&host, &name, false)["differing_blocks"], 0, "{level}");
        if level != "raid5f" {
            assert!(
                disks.each_ref().map(Ram::contents) == before,
                "{level}: the wrong copy was kept"
            );
        }

        disks[1].fail_reads_at(Some(2048 + 5));
        let found = scrub(&host, &name, true);
        disks[1].fail_reads_at(None);
        assert_ne!(found["unreadable_blocks"], 0, "{level}: {found}");
        assert_eq!(found["unreadable_blocks"], found["repaired_blocks"], "{level}");
        assert_eq!(show(&host, &name)["num_base_bdevs_discovered"], 3);
        deleted(&host, &name, opened);
    }
}

#[test]
fn a_scrub_that_was_stopped_goes_on_where_it_was() {
    let host = load();
    let disks = ["sd0", "sd1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let opened = array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}));
    let name = "sd0-raid1";
    // The clock stands still, so the scrub waits after its first window.
    host.call("bdev_raid_set_options", &json!({"process_max_bandwidth_mb_sec": 1})).unwrap();
    host.call("bdev_raid_start_scrub", &json!({"name": name})).unwrap();
    let blocks = || show(&host, name)["scrub"]["progress"]["blocks"].clone();
    host.wait(|| (blocks() != 0).then_some(()));
    let again = host.call("bdev_raid_start_scrub", &json!({"name": name})).unwrap_err();
    assert!(again.message.contains("is being scrubbed"), "{again:?}");
    host.call("bdev_raid_stop_scrub", &json!({"name": name})).unwrap();
    let at = blocks();
    assert_eq!((&show(&host, name)["scrub"]["state"], &at), (&json!("stopped"), &json!(512)));
    assert_eq!(host.call("bdev_raid_stop_scrub", &json!({"name": name})).unwrap_err().code, -19);
    // The scrub does not check blocks again that it has checked before the stop.
    disks[1].overwrite(2048 + 3, &[9; 512]);
    disks[1].overwrite(2048 + 700, &[9; 512]);
    host.call("bdev_raid_set_options", &json!({"process_max_bandwidth_mb_sec": 0})).unwrap();
    assert_eq!(scrub(&host, name, false)["differing_blocks"], 1);
    assert_eq!(scrub(&host, name, false)["differing_blocks"], 2, "a new scrub checks all");
    deleted(&host, name, opened);
}

#[test]
fn a_stop_does_not_wait_without_limit_for_a_member_that_hangs() {
    let host = load();
    let disks = ["sf0", "sf1"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let opened = array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}));
    let name = "sf0-raid1";
    disks[1].hang();
    host.call("bdev_raid_start_scrub", &json!({"name": name})).unwrap();
    let (sender, receiver) = task::oneshot::channel();
    let stop = async move |_: &App| {
        let array = arrays::by_name(name).unwrap();
        let refused = crate::scrub::stop(&array).await.unwrap_err();
        let _ = sender.send(refused.errno());
    };
    task::spawn_on_app("test stop", stop).unwrap().detach();
    let code = Rc::new(Cell::new(None));
    let end = Rc::clone(&code);
    task::spawn("test stop ended", async move { end.set(receiver.await.ok()) }).unwrap().detach();
    let rounds = || (0..50).for_each(|_| host.run());
    rounds();
    assert_eq!(code.get(), None);
    host.advance(Duration::from_secs(6));
    rounds();
    assert_eq!(code.get(), Some(errno::EBUSY));
    disks[1].answer();
    host.wait(|| (show(&host, name)["scrub"]["state"] == "stopped").then_some(()));
    deleted(&host, name, opened);
}

#[test]
fn an_array_without_copies_is_not_scrubbed() {
    let host = load();
    let disks: [Ram; 3] =
        std::array::from_fn(|number| Ram::plug(&host, &format!("se{number}"), NUM_BLOCKS));
    let opened = array(&host, "raid0", &[&disks[0], &disks[1]], json!({"strip_size_kb": 1}));
    let start = |name: &str| host.call("bdev_raid_start_scrub", &json!({"name": name}));
    assert_eq!(start("se0-raid0").unwrap_err().code, -22);
    assert_eq!(start("none").unwrap_err().code, -19);
    deleted(&host, "se0-raid0", opened);
    let opened = array(&host, "raid5f", &disks.each_ref(), json!({"strip_size_kb": 1}));
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "se2"})).unwrap();
    assert_eq!(start("se0-raid5f").unwrap_err().code, -19);
    deleted(&host, "se0-raid5f", opened);
}
