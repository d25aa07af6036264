//! A member that the operator removes stays out until its bdev appears again, whatever the array was doing.

use super::hangs::{begin_removal, rounds};
use super::ram::Ram;
use super::{array, deleted, load, show, write};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use std::time::Duration;

const NUM_BLOCKS: usize = 2048 + 4096;

fn members(host: &FakeHost, name: &str) -> Value {
    show(host, name)["num_base_bdevs_discovered"].clone()
}

fn wait_until_rebuilt(host: &FakeHost, name: &str) {
    host.wait(|| {
        let shown = show(host, name);
        let is_whole = shown["num_base_bdevs_discovered"] == shown["num_base_bdevs"];
        (shown["process"].is_null() && is_whole).then_some(())
    });
}

fn remove(host: &FakeHost, member: &str) {
    host.call("bdev_raid_remove_base_bdev", &json!({"name": member})).unwrap();
}

#[test]
fn a_member_that_returned_twice_and_is_removed_during_its_rebuild_stays_out() {
    let host = load();
    let [a, b, c] = ["oa0", "oa1", "oa2"].map(|name| Ram::plug(&host, name, NUM_BLOCKS));
    let name = "oa0-raid1";
    let opened = array(&host, "raid1", &[&a, &b, &c], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
    [&b, &c].iter().for_each(|disk| disk.unplug(&host));
    for lba in [1, 2048] {
        assert_eq!(write(&host, &opened.0, lba, 2, 1), Status::SUCCESS);
    }
    // The clock stands still, so a rebuild waits after its first window.
    let slow = json!({"process_window_size_kb": 1024, "process_max_bandwidth_mb_sec": 1});
    host.call("bdev_raid_set_options", &slow).unwrap();
    c.plug_in(&host);
    host.wait(|| (show(&host, name)["process"]["progress"]["blocks"] == 2048).then_some(()));
    // The member waits for the end of that rebuild, and its bdev appears a second time meanwhile.
    b.plug_in(&host);
    rounds(&host);
    b.unplug(&host);
    b.plug_in(&host);
    rounds(&host);
    host.advance(Duration::from_secs(2));
    host.wait(|| (show(&host, name)["process"]["target"] == "oa1").then_some(()));
    remove(&host, "oa1");
    for _ in 0..4 {
        host.advance(Duration::from_secs(2));
        rounds(&host);
    }
    // It did not even try: whether that fails depends on who else still has the bdev open.
    let tries = host.log().iter().filter(|line| line.contains("oa1 came back")).count();
    assert_eq!(tries, 1);
    assert_eq!((members(&host, name), &show(&host, name)["process"]), (json!(2), &Value::Null));
    deleted(&host, name, opened);
}

#[test]
fn a_member_that_is_removed_while_its_examination_waits_stays_out_until_its_bdev_appears_again() {
    for (prefix, holds_the_record) in [("ob", false), ("oc", true)] {
        let host = load();
        let [a, b, other] =
            ["0", "1", "2"].map(|n| Ram::plug(&host, &format!("{prefix}{n}"), NUM_BLOCKS));
        let name: &'static str = if holds_the_record { "oc0-raid1" } else { "ob0-raid1" };
        let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
        assert_eq!(write(&host, &opened.0, 0, 1, 1), Status::SUCCESS);
        // The plugin examines one bdev at a time, and this one does not answer.
        [&b, &other].iter().for_each(|disk| disk.unplug(&host));
        other.hang();
        other.plug_in(&host);
        rounds(&host);
        b.plug_in(&host);
        let add = json!({"raid_bdev": name, "base_bdev": b.name()});
        host.call("bdev_raid_add_base_bdev", &add).unwrap();
        wait_until_rebuilt(&host, name);
        if holds_the_record {
            // The record of the removal is not durable when the examination begins to look at the array.
            a.hang();
            let removed = begin_removal(name, 1);
            rounds(&host);
            other.answer();
            rounds(&host);
            a.answer();
            rounds(&host);
            assert!(removed.get());
        } else {
            remove(&host, &b.name());
            other.answer();
        }
        rounds(&host);
        assert_eq!((members(&host, name), &show(&host, name)["process"]), (json!(1), &Value::Null));
        b.unplug(&host);
        b.plug_in(&host);
        wait_until_rebuilt(&host, name);
        deleted(&host, name, opened);
    }
}
