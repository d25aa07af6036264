//! Growth by larger members, and of a raid1 by another member.

use super::ram::Ram;
use super::{array, deleted, load, read, show, write, write_each};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;

/// 1 MiB for the superblock, and 32 blocks of data.
const NUM_BLOCKS: usize = 2048 + 32;

fn disks<const N: usize>(host: &FakeHost, prefix: &str) -> [Ram; N] {
    std::array::from_fn(|number| Ram::plug(host, &format!("{prefix}{number}"), NUM_BLOCKS))
}

fn size(host: &FakeHost, name: &str) -> u64 {
    host.open(name).1.info().unwrap().num_blocks()
}

fn wait_until_whole(host: &FakeHost, name: &str, members: u8) {
    host.wait(|| {
        let shown = show(host, name);
        (shown["process"].is_null() && shown["num_base_bdevs_discovered"] == members).then_some(())
    });
}

#[test]
fn every_level_grows_when_all_of_its_members_have_grown() {
    let host = load();
    // Blocks of the array for each block of a member: before, and after the growth.
    let levels = [("raid0", 4), ("raid1", 1), ("raid10", 2), ("raid5f", 3), ("concat", 4)];
    for (level, share) in levels {
        let disks: [Ram; 4] = disks(&host, &format!("g{level}"));
        let strip = u8::from(level != "raid1");
        let more = json!({"strip_size_kb": strip, "superblock": true});
        let opened = array(&host, level, &disks.each_ref(), more);
        let name = format!("g{level}0-{level}");
        assert_eq!(size(&host, &name), 32 * share);
        let unit = if level == "raid5f" { 6 } else { 2 };
        let fills: Vec<u8> = (1..=unit).collect();
        assert_eq!(write_each(&host, &opened.0, 0, &fills), Status::SUCCESS);
        for disk in &disks[..3] {
            disk.grow(&host, NUM_BLOCKS + 16);
            assert_eq!(size(&host, &name), 32 * share, "{level}: not all members have grown");
        }
        disks[3].grow(&host, NUM_BLOCKS + 16);
        // A concat grows by its last member only.
        let larger = if level == "concat" { 4 * 32 + 16 } else { 48 * share };
        assert_eq!(size(&host, &name), larger, "{level}");
        let end = larger - u64::from(unit);
        assert_eq!(write_each(&host, &opened.0, end, &fills), Status::SUCCESS, "{level}");
        drop(opened);
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
        disks.iter().for_each(|disk| disk.unplug(&host));
        disks.iter().for_each(|disk| disk.plug_in(&host));
        assert_eq!(size(&host, &name), larger, "{level} after a restart");
        let opened = host.open(&name);
        for (lba, fill) in (0..).zip(&fills) {
            assert_eq!(read(&host, &opened.0, lba), Ok(*fill), "{level}");
            assert_eq!(read(&host, &opened.0, end + lba), Ok(*fill), "{level}");
        }
        deleted(&host, &name, opened);
    }
}

#[test]
fn an_array_grows_at_its_start_and_at_the_end_of_a_rebuild() {
    let host = load();
    let disks: [Ram; 3] = disks(&host, "gs");
    let more = json!({"superblock": true});
    let opened = array(&host, "raid1", &[&disks[0], &disks[1]], more);
    assert_eq!(write(&host, &opened.0, 31, 7, 1), Status::SUCCESS);
    drop(opened);
    for disk in &disks[..2] {
        disk.unplug(&host);
        disk.grow(&host, NUM_BLOCKS + 8);
        disk.plug_in(&host);
    }
    assert_eq!(size(&host, "gs0-raid1"), 40);
    // While a slot is empty, the array keeps its size.
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "gs1"})).unwrap();
    disks[0].grow(&host, NUM_BLOCKS + 16);
    disks[2].grow(&host, NUM_BLOCKS + 24);
    assert_eq!(size(&host, "gs0-raid1"), 40);
    let add = json!({"raid_bdev": "gs0-raid1", "base_bdev": "gs2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    wait_until_whole(&host, "gs0-raid1", 2);
    host.wait(|| (size(&host, "gs0-raid1") == 48).then_some(()));
    let shown = show(&host, "gs0-raid1");
    assert!(
        shown["base_bdevs_list"].as_array().unwrap().iter().all(|base| base["data_size"] == 48)
    );
    let opened = host.open("gs0-raid1");
    assert_eq!((read(&host, &opened.0, 31), disks[2].block(2048 + 31)), (Ok(7), 7));
    deleted(&host, "gs0-raid1", opened);
}

#[test]
fn a_member_that_cannot_take_the_new_size_leaves_and_the_array_grows() {
    let host = load();
    let disks: [Ram; 2] = disks(&host, "gf");
    let opened = array(&host, "raid1", &disks.each_ref(), json!({"superblock": true}));
    disks[0].grow(&host, NUM_BLOCKS + 8);
    disks[1].fail_writes(true);
    disks[1].grow(&host, NUM_BLOCKS + 8);
    host.wait(|| (show(&host, "gf0-raid1")["num_base_bdevs_discovered"] == 1).then_some(()));
    assert_eq!(size(&host, "gf0-raid1"), 40);
    assert_eq!(disks[0].durable_superblock().unwrap().num_blocks, 40);
    assert_eq!(write(&host, &opened.0, 39, 7, 1), Status::SUCCESS);
    deleted(&host, "gf0-raid1", opened);
}

#[test]
fn an_array_that_cannot_record_its_new_size_records_it_at_the_next_attempt() {
    let host = load();
    let disks: [Ram; 2] = disks(&host, "gn");
    let more = json!({"strip_size_kb": 1, "superblock": true});
    let opened = array(&host, "raid0", &disks.each_ref(), more);
    disks[0].grow(&host, NUM_BLOCKS + 8);
    disks[1].fail_writes(true);
    disks[1].grow(&host, NUM_BLOCKS + 8);
    assert_eq!(size(&host, "gn0-raid0"), 64);
    disks[1].fail_writes(false);
    disks[1].grow(&host, NUM_BLOCKS + 10);
    host.wait(|| (size(&host, "gn0-raid0") == 80).then_some(()));
    for disk in &disks {
        assert_eq!(disk.durable_superblock().unwrap().num_blocks, 80, "{}", disk.name());
    }
    deleted(&host, "gn0-raid0", opened);
}

#[test]
fn a_raid1_gets_another_member_that_can_replace_the_first_ones() {
    let host = load();
    for has_superblock in [false, true] {
        let disks: [Ram; 5] = disks(&host, &format!("gw{has_superblock}"));
        let more = json!({"superblock": has_superblock});
        let opened = array(&host, "raid1", &[&disks[0], &disks[1]], more);
        let name = format!("{}-raid1", disks[0].name());
        assert_eq!(write_each(&host, &opened.0, 3, &[1, 2, 3]), Status::SUCCESS);
        for disk in &disks[2..] {
            let grow = json!({"raid_name": name, "base_name": disk.name()});
            host.call("bdev_raid_grow_base_bdev", &grow).unwrap();
            assert_eq!(
                host.call("bdev_raid_grow_base_bdev", &grow).unwrap_err().code,
                -1,
                "a rebuild"
            );
            let now = show(&host, &name);
            wait_until_whole(&host, &name, now["num_base_bdevs"].as_u64().unwrap() as u8);
        }
        assert_eq!(show(&host, &name)["num_base_bdevs"], 5);
        assert_eq!(write(&host, &opened.0, 6, 9, 1), Status::SUCCESS);
        for disk in &disks[..4] {
            host.call("bdev_raid_remove_base_bdev", &json!({"name": disk.name()})).unwrap();
        }
        let found = [3, 4, 5, 6].map(|lba| read(&host, &opened.0, lba));
        assert_eq!(found, [Ok(1), Ok(2), Ok(3), Ok(9)]);
        if has_superblock {
            let superblock = disks[4].durable_superblock().unwrap();
            assert_eq!((superblock.num_members, superblock.members.len()), (5, 5));
        }
        deleted(&host, &name, opened);
    }
}

#[test]
fn what_cannot_get_a_slot_is_refused_and_stays_as_it_was() {
    let host = load();
    let disks: [Ram; 4] = disks(&host, "gr");
    let small = Ram::plug(&host, "small", 2048 + 31);
    let code = |name: &str, base: &str| {
        let grow = json!({"raid_name": name, "base_name": base});
        host.call("bdev_raid_grow_base_bdev", &grow).unwrap_err().code
    };
    let strips = array(&host, "raid0", &[&disks[2], &disks[3]], json!({"strip_size_kb": 1}));
    assert_eq!(code("gr2-raid0", "small"), -22, "another level");
    assert_eq!(code("none", "small"), -19);
    deleted(&host, "gr2-raid0", strips);
    let opened = array(&host, "raid1", &[&disks[0], &disks[1]], json!({"superblock": true}));
    let before = (show(&host, "gr0-raid1"), disks[0].durable_superblock());
    assert_eq!(code("gr0-raid1", "none"), -19);
    assert_eq!(code("gr0-raid1", "gr1"), -1, "it is a member");
    assert_eq!(code("gr0-raid1", "small"), -22, "too small");
    disks[2].fail_writes(true);
    assert_eq!(code("gr0-raid1", "gr2"), -5, "no superblock can be written to it");
    disks[2].fail_writes(false);
    let after = disks[0].durable_superblock().unwrap();
    let known = before.1.unwrap();
    assert_eq!((after.num_members, &after.members), (known.num_members, &known.members));
    assert_eq!(show(&host, "gr0-raid1"), before.0);
    assert_eq!(write(&host, &opened.0, 3, 3, 1), Status::SUCCESS);
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "gr1"})).unwrap();
    assert_eq!(code("gr0-raid1", "gr2"), -22, "a slot is empty");
    drop(small);
    deleted(&host, "gr0-raid1", opened);
}
