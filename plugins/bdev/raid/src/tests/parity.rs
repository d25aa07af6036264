//! raid5f: parity, degraded reads and writes, rebuild, repair.

use super::ram::Ram;
use super::{array, deleted, load, read, show, write, write_each};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::MemberState;

/// 1 MiB for the superblock, and 32 strips of two blocks.
const NUM_BLOCKS: usize = 2048 + 64;

fn disks<const N: usize>(host: &FakeHost, prefix: &str) -> [Ram; N] {
    std::array::from_fn(|number| Ram::plug(host, &format!("{prefix}{number}"), NUM_BLOCKS))
}

/// The byte that `fill` writes to each block.
fn byte(lba: u64) -> u8 {
    (lba * 37 % 251) as u8
}

/// Fills an array whose stripes have `stripe` blocks.
fn fill(host: &FakeHost, channel: &drivebay_sdk::bdev::Channel, stripe: u64) {
    for lba in (0..32 * stripe).step_by(stripe as usize) {
        let fills: Vec<u8> = (lba..lba + stripe).map(byte).collect();
        assert_eq!(write_each(host, channel, lba, &fills), Status::SUCCESS, "{lba}");
    }
}

fn wait_until_rebuilt(host: &FakeHost, name: &str, members: u8) {
    host.wait(|| {
        let shown = show(host, name);
        (shown["process"].is_null() && shown["num_base_bdevs_discovered"] == members).then_some(())
    });
}

#[test]
fn parity_is_the_sum_of_a_row_and_moves_on_with_each_row() {
    let host = load();
    let disks: [Ram; 4] = disks(&host, "pa");
    let opened = array(&host, "raid5f", &disks.each_ref(), json!({"strip_size_kb": 1}));
    assert_eq!(opened.1.info().unwrap().num_blocks(), 3 * NUM_BLOCKS as u64);
    fill(&host, &opened.0, 6);
    for row in 0..8_usize {
        let bytes = disks.each_ref().map(|disk| disk.block(2 * row + 1));
        assert_eq!(bytes.iter().fold(0, |sum, byte| sum ^ byte), 0, "row {row}");
        let sum = (0..3).fold(0, |sum, strip| sum ^ byte(row as u64 * 6 + strip * 2 + 1));
        assert_eq!(bytes[3 - row % 4], sum, "row {row}");
    }
    assert_eq!(write(&host, &opened.0, 1, 1, 6), Status::INVALID, "not a whole stripe");
    assert_eq!(write(&host, &opened.0, 0, 1, 5), Status::INVALID, "not a whole stripe");
    deleted(&host, "pa0-raid5f", opened);
}

#[test]
fn any_member_may_be_lost_and_rebuilt() {
    let host = load();
    let disks: [Ram; 4] = disks(&host, "pb");
    let all = [&disks[0], &disks[1], &disks[2]];
    let opened = array(&host, "raid5f", &all, json!({"strip_size_kb": 1, "superblock": true}));
    fill(&host, &opened.0, 4);
    for lost in 0..3 {
        host.call("bdev_raid_remove_base_bdev", &json!({"name": format!("pb{lost}")})).unwrap();
        // Write all stripes without the member.
        fill(&host, &opened.0, 4);
        let mut data = vec![0; 4 * 512];
        let whole = Op::Read(Range::new(8, 4));
        assert!(host.io(&opened.0, whole, IoFlags::NONE, &mut data).status.is_success());
        let bytes: Vec<u8> = data.iter().step_by(512).copied().collect();
        assert_eq!(bytes, (8..12).map(byte).collect::<Vec<_>>(), "without {lost}");
        for lba in 0..128 {
            assert_eq!(read(&host, &opened.0, lba), Ok(byte(lba)), "{lba} without {lost}");
        }
        let add = json!({"raid_bdev": "pb0-raid5f", "base_bdev": format!("pb{lost}")});
        host.call("bdev_raid_add_base_bdev", &add).unwrap();
        wait_until_rebuilt(&host, "pb0-raid5f", 3);
    }
    drop(opened);
    for lost in ["pb0", "pb1"] {
        host.call("bdev_raid_remove_base_bdev", &json!({"name": lost})).unwrap();
    }
    assert_eq!(show(&host, "pb0-raid5f")["state"], "offline");
    host.call("bdev_raid_delete", &json!({"name": "pb0-raid5f"})).unwrap();
}

#[test]
fn strips_of_a_missing_member_are_not_computed_where_a_write_was_cut_off() {
    let host = load();
    let disks: [Ram; 3] = disks(&host, "pf");
    let name = "pf0-raid5f";
    let more = json!({"strip_size_kb": 1, "superblock": true});
    let mut opened = array(&host, "raid5f", &disks.each_ref(), more);
    fill(&host, &opened.0, 4);
    disks[2].unplug(&host);
    fill(&host, &opened.0, 4);
    let is_unreadable = |channel: &drivebay_sdk::bdev::Channel, lba: u64| {
        let read = read(&host, channel, lba);
        assert!(read == Ok(byte(lba)) || read == Err(Status::MEDIA), "{lba}: {read:?}");
        read.is_err()
    };
    for has_crashed in [false, true] {
        let images = disks.each_ref().map(Ram::contents);
        drop(opened);
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
        for (disk, image) in disks.iter().zip(&images).take(2) {
            disk.unplug(&host);
            if has_crashed {
                disk.overwrite(0, image);
            }
            disk.plug_in(&host);
        }
        host.wait(|| (show(&host, name)["state"] == "online").then_some(()));
        opened = host.open(name);
        // The first row has its parity on the missing member, and the next two have a strip of data there.
        let lost = (0..12).filter(|lba| is_unreadable(&opened.0, *lba)).collect::<Vec<_>>();
        assert_eq!(lost, if has_crashed { vec![6, 7, 10, 11] } else { vec![] });
    }
    // The blocks may be neither old nor new data, so only the operator's call rebuilds them.
    disks[2].plug_in(&host);
    let is_seen = |what: &str| host.log().iter().any(|line| line.contains(what));
    host.wait(|| is_seen("came back but is not rebuilt").then_some(()));
    let add = json!({"raid_bdev": name, "base_bdev": "pf2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    wait_until_rebuilt(&host, name, 3);
    assert!((0..128).all(|lba| !is_unreadable(&opened.0, lba)));
    deleted(&host, name, opened);
}

#[test]
fn after_a_crash_marks_count_that_exist_because_another_program_used_the_array() {
    let host = load();
    for has_crashed in [false, true] {
        let disks: [Ram; 3] = disks(&host, if has_crashed { "pg" } else { "ph" });
        let name = format!("{}-raid5f", disks[0].name());
        let more = json!({"strip_size_kb": 1, "superblock": true});
        let opened = array(&host, "raid5f", &disks.each_ref(), more);
        fill(&host, &opened.0, 4);
        drop(opened);
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
        // Another program used the array; this one began to compute parity again, and lost a member.
        let mut superblock = disks[0].durable_superblock().unwrap();
        let mut record = disks[0].durable_intent().unwrap();
        superblock.members[2].state = MemberState::Missing;
        record.was_used_by_another = true;
        record.has_ended_in_order = !has_crashed;
        record.regions.insert(0);
        record.generation += 2;
        for disk in &disks {
            disk.unplug(&host);
        }
        for disk in &disks[..2] {
            disk.overwrite(0, &superblock.to_bytes());
            disk.overwrite(1024, &record.to_bytes());
            disk.plug_in(&host);
        }
        host.wait(|| (show(&host, &name)["state"] == "online").then_some(()));
        let opened = host.open(&name);
        let lost = (0..12).filter(|lba| read(&host, &opened.0, *lba).is_err()).count();
        assert_eq!(lost, if has_crashed { 4 } else { 0 });
        deleted(&host, &name, opened);
    }
}

#[test]
fn a_bad_block_is_computed_and_written_again() {
    let host = load();
    let disks: [Ram; 3] = disks(&host, "pc");
    let opened = array(&host, "raid5f", &disks.each_ref(), json!({"strip_size_kb": 1}));
    fill(&host, &opened.0, 4);
    disks[0].fail_reads_at(Some(1));
    assert_eq!(read(&host, &opened.0, 1), Ok(byte(1)));
    host.wait(|| host.log().iter().any(|line| line.contains("were repaired")).then_some(()));
    disks[1].fail_reads_at(Some(1));
    assert_eq!(read(&host, &opened.0, 1), Err(Status::MEDIA), "two strips of the row are bad");
    assert_eq!(show(&host, "pc0-raid5f")["num_base_bdevs_discovered"], 3);
    deleted(&host, "pc0-raid5f", opened);
}

#[test]
fn a_member_that_fails_a_write_is_taken_out_and_a_refused_write_leaves_no_wrong_parity() {
    let host = load();
    let disks: [Ram; 3] = disks(&host, "pd");
    let opened = array(&host, "raid5f", &disks.each_ref(), json!({"strip_size_kb": 1}));
    fill(&host, &opened.0, 4);
    let sum = || disks.iter().fold(0, |sum, disk| sum ^ disk.block(0));
    for disk in &disks {
        disk.end_writes_with(Some(Status::INVALID));
        assert_eq!(write_each(&host, &opened.0, 0, &[1, 2, 3, 4]), Status::INVALID);
        disk.end_writes_with(None);
        host.wait(|| (sum() == 0).then_some(()));
        fill(&host, &opened.0, 4);
    }
    disks[1].fail_writes(true);
    assert_eq!(write_each(&host, &opened.0, 0, &[1, 2, 3, 4]), Status::SUCCESS);
    assert_eq!(show(&host, "pd0-raid5f")["num_base_bdevs_discovered"], 2);
    for lba in 0..4 {
        assert_eq!(read(&host, &opened.0, lba), Ok(lba as u8 + 1));
    }
    deleted(&host, "pd0-raid5f", opened);
}

#[test]
fn stripes_that_are_too_long_are_refused() {
    let host = load();
    let disks: [Ram; 3] =
        std::array::from_fn(|number| Ram::plug(&host, &format!("pe{number}"), 4096));
    let names = disks.each_ref().map(|disk| disk.name());
    let create =
        json!({"name": "pe", "raid_level": "5f", "strip_size_kb": 1024, "base_bdevs": names});
    let refused = host.call("bdev_raid_create", &create).unwrap_err();
    assert_eq!(refused.code, -22);
    assert!(refused.message.contains("2048 KiB of data; allowed: at most 1024 KiB"), "{refused:?}");
}
