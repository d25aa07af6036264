//! Members that fail, leave and return; arrays that the plugin finds by their superblocks.

use super::ram::Ram;
use super::{array, deleted, load, read, show, write};
use crate::repair::{self, Fault};
use crate::shared::{Shared, Views};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::{Layout, Level, MemberState};
use std::sync::Arc;

/// Size of a member: 1 MiB for the superblock, and 64 blocks of data.
const NUM_BLOCKS: usize = 2048 + 64;

fn disks<const N: usize>(host: &FakeHost, names: [&str; N]) -> [Ram; N] {
    names.map(|name| Ram::plug(host, name, NUM_BLOCKS))
}

/// Deletes an array but keeps its superblocks, as the end of the process does.
fn forgotten(host: &FakeHost, name: &str) {
    host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
}

fn state_of(host: &FakeHost, name: &str) -> Value {
    show(host, name)["state"].clone()
}

fn wait_until_rebuilt(host: &FakeHost, name: &str) {
    host.wait(|| {
        let shown = show(host, name);
        let is_done = shown["process"].is_null()
            && shown["num_base_bdevs_discovered"] == shown["num_base_bdevs"];
        is_done.then_some(())
    });
}

#[test]
fn a_failed_write_is_acknowledged_when_the_failure_is_durable_on_the_others() {
    let host = load();
    let [a, b] = disks(&host, ["f0", "f1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(a.durable_superblock().unwrap().sequence, 1);
    b.fail_writes(true);
    assert_eq!(write(&host, &opened.0, 3, 8, 1), Status::SUCCESS);
    let superblock = a.durable_superblock().unwrap();
    assert_eq!(
        (superblock.sequence, superblock.member(1).unwrap().state),
        (2, MemberState::Failed)
    );
    assert_eq!(read(&host, &opened.0, 3), Ok(8));
    host.wait(|| (show(&host, "f0-raid1")["num_base_bdevs_discovered"] == 1).then_some(()));
    // The last member stays when a write fails on it, and the client gets the error.
    a.fail_writes(true);
    assert_eq!(write(&host, &opened.0, 3, 9, 1), Status::IO_ERROR);
    assert_eq!(state_of(&host, "f0-raid1"), "online");
    a.fail_writes(false);
    deleted(&host, "f0-raid1", opened);
}

#[test]
fn without_room_for_a_task_a_failed_write_ends_and_the_next_one_takes_the_member_out() {
    let host = load();
    let [a, b] = disks(&host, ["y0", "y1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 3, 1, 1), Status::SUCCESS);
    let waits = || task::spawn("waits", std::future::pending::<()>()).ok();
    let mut tasks: Vec<_> = std::iter::from_fn(waits).collect();
    b.fail_writes(true);
    assert_eq!(write(&host, &opened.0, 3, 2, 1), Status::IO_ERROR);
    tasks.iter_mut().for_each(task::JoinHandle::cancel);
    host.wait(|| (task::list().len() < 100).then_some(()));
    assert_eq!(write(&host, &opened.0, 3, 3, 1), Status::SUCCESS);
    let superblock = a.durable_superblock().unwrap();
    assert_eq!(superblock.member(1).unwrap().state, MemberState::Failed);
    deleted(&host, "y0-raid1", opened);
}

#[test]
fn a_flush_that_fails_on_a_member_takes_it_out() {
    let host = load();
    let [a, b] = disks(&host, ["g0", "g1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    a.fail_writes(true);
    let result = host.io(&opened.0, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert!(result.status.is_success());
    assert_eq!(b.durable_superblock().unwrap().member(0).unwrap().state, MemberState::Failed);
    deleted(&host, "g0-raid1", opened);
}

#[test]
fn a_bad_block_is_read_from_the_other_member_and_written_again() {
    let host = load();
    let [a, b] = disks(&host, ["b0", "b1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({}));
    assert_eq!(write(&host, &opened.0, 3, 8, 1), Status::SUCCESS);
    a.fail_reads_at(Some(3));
    assert_eq!(read(&host, &opened.0, 3), Ok(8));
    host.wait(|| host.log().iter().any(|line| line.contains("were repaired")).then_some(()));
    b.fail_reads_at(Some(3));
    assert_eq!(read(&host, &opened.0, 3), Err(Status::MEDIA), "both copies are bad");
    assert_eq!(show(&host, "b0-raid1")["num_base_bdevs_discovered"], 2);
    deleted(&host, "b0-raid1", opened);
}

#[test]
fn an_array_is_assembled_from_its_members_in_any_order() {
    let host = load();
    let [a, b] = disks(&host, ["a0", "a1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 0, 4, 64), Status::SUCCESS);
    drop(opened);
    for order in [[&a, &b], [&b, &a]] {
        forgotten(&host, "a0-raid1");
        order.iter().for_each(|disk| disk.unplug(&host));
        order[0].plug_in(&host);
        host.wait(|| (state_of(&host, "a0-raid1") == "configuring").then_some(()));
        order[1].plug_in(&host);
        host.wait(|| (state_of(&host, "a0-raid1") == "online").then_some(()));
        let opened = host.open("a0-raid1");
        assert_eq!(read(&host, &opened.0, 63), Ok(4));
    }
    deleted(&host, "a0-raid1", host.open("a0-raid1"));
}

#[test]
fn a_stale_member_never_starts_an_array_and_is_rebuilt_when_it_is_back() {
    let host = load();
    let [a, b] = disks(&host, ["r0", "r1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 0, 4, 64), Status::SUCCESS);
    b.unplug(&host);
    assert_eq!(write(&host, &opened.0, 7, 5, 1), Status::SUCCESS);
    drop(opened);
    forgotten(&host, "r0-raid1");
    a.unplug(&host);
    // The stale member alone does not start the array: its superblock lists the other one, too.
    b.plug_in(&host);
    for _ in 0..20 {
        host.run();
    }
    assert_eq!(state_of(&host, "r0-raid1"), "configuring");
    // The newer member starts the array degraded. Then the stale one is rebuilt.
    a.plug_in(&host);
    host.wait(|| (state_of(&host, "r0-raid1") == "online").then_some(()));
    wait_until_rebuilt(&host, "r0-raid1");
    assert_eq!(b.block(2048 + 7), 5);
    let superblock = b.durable_superblock().unwrap();
    assert!(superblock.members.iter().all(|member| member.state == MemberState::Configured));
    deleted(&host, "r0-raid1", host.open("r0-raid1"));
}

#[test]
fn a_new_member_is_rebuilt_and_then_carries_the_array_alone() {
    let host = load();
    let [a, b, c] = disks(&host, ["n0", "n1", "n2"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    for lba in 0..64 {
        assert_eq!(write(&host, &opened.0, lba, lba as u8, 1), Status::SUCCESS);
    }
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "n1"})).unwrap();
    let add = json!({"raid_bdev": "n0-raid1", "base_bdev": "n2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    wait_until_rebuilt(&host, "n0-raid1");
    a.unplug(&host);
    for lba in 0..64 {
        assert_eq!(read(&host, &opened.0, lba), Ok(lba as u8));
    }
    assert_eq!(c.durable_superblock().unwrap().member(0).unwrap().state, MemberState::Missing);
    deleted(&host, "n0-raid1", opened);
}

#[test]
fn after_a_power_cut_in_a_degraded_write_what_was_acknowledged_is_read() {
    let host = load();
    let [a, b] = disks(&host, ["p0", "p1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 7, 1, 1), Status::SUCCESS);
    b.fail_writes(true);
    assert_eq!(write(&host, &opened.0, 7, 2, 1), Status::SUCCESS);
    let result = host.io(&opened.0, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert!(result.status.is_success());
    drop(opened);
    forgotten(&host, "p0-raid1");
    for disk in [&a, &b] {
        disk.unplug(&host);
        disk.fail_writes(false);
        disk.cut_power();
    }
    b.plug_in(&host);
    a.plug_in(&host);
    host.wait(|| (state_of(&host, "p0-raid1") == "online").then_some(()));
    wait_until_rebuilt(&host, "p0-raid1");
    let opened = host.open("p0-raid1");
    for _ in 0..20 {
        assert_eq!(read(&host, &opened.0, 7), Ok(2));
    }
    deleted(&host, "p0-raid1", opened);
}

#[test]
fn raid0_goes_offline_without_a_member() {
    let host = load();
    let [a, b] = disks(&host, ["z0", "z1"]);
    let more = json!({"strip_size_kb": 4, "superblock": true});
    drop(array(&host, "raid0", &[&a, &b], more));
    a.unplug(&host);
    assert_eq!(state_of(&host, "z0-raid0"), "offline");
    host.call("bdev_raid_delete", &json!({"name": "z0-raid0"})).unwrap();
}

#[test]
fn a_degraded_array_without_a_superblock_starts_degraded_again_and_rebuilds_a_blank_bdev() {
    let host = load();
    let [a, b, c] = disks(&host, ["d0", "d1", "d2"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({}));
    assert_eq!(write(&host, &opened.0, 0, 6, 64), Status::SUCCESS);
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "d1"})).unwrap();
    drop(opened);
    forgotten(&host, "d0-raid1");
    // This is what the saved configuration says.
    let saved = json!({
        "name": "d0-raid1", "raid_level": "raid1", "base_bdevs": ["d0", "removed_base_bdev_1"],
    });
    host.call("bdev_raid_create", &saved).unwrap();
    let shown = show(&host, "d0-raid1");
    assert_eq!(
        (&shown["state"], &shown["num_base_bdevs_discovered"]),
        (&json!("online"), &json!(1))
    );
    let add = json!({"raid_bdev": "d0-raid1", "base_bdev": "d2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    wait_until_rebuilt(&host, "d0-raid1");
    assert_eq!((c.block(0), c.block(63)), (6, 6));
    deleted(&host, "d0-raid1", host.open("d0-raid1"));
}

#[test]
fn an_array_that_waits_for_a_bdev_takes_no_other_one() {
    let host = load();
    let [_a, _b] = disks(&host, ["q0", "q1"]);
    let create = json!({"name": "q", "raid_level": "raid1", "base_bdevs": ["q0", "later"]});
    host.call("bdev_raid_create", &create).unwrap();
    let add = json!({"raid_bdev": "q", "base_bdev": "q1"});
    assert_eq!(host.call("bdev_raid_add_base_bdev", &add).unwrap_err().code, -22);
    assert_eq!(state_of(&host, "q"), "configuring");
    host.call("bdev_raid_delete", &json!({"name": "q"})).unwrap();
}

#[test]
fn a_refused_write_keeps_its_members_and_the_copies_become_equal_again() {
    let host = load();
    let [a, b] = disks(&host, ["v0", "v1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({}));
    assert_eq!(write(&host, &opened.0, 3, 1, 2), Status::SUCCESS);
    for (refuses, takes) in [(&a, &b), (&b, &a)] {
        refuses.end_writes_with(Some(Status::INVALID));
        assert_eq!(write(&host, &opened.0, 3, 2, 2), Status::INVALID);
        assert_eq!(takes.block(3), 2);
        refuses.end_writes_with(None);
        host.wait(|| (a.block(3) == b.block(3)).then_some(()));
        assert_eq!(show(&host, "v0-raid1")["num_base_bdevs_discovered"], 2);
        assert_eq!(write(&host, &opened.0, 3, 1, 2), Status::SUCCESS);
    }
    deleted(&host, "v0-raid1", opened);
}

#[test]
fn no_more_repairs_wait_than_there_is_room_for() {
    let _host = load();
    let layout = Layout::new(Level::Raid1, 0, &[64, 64]).unwrap();
    let views = Views { layout: Arc::new(layout), members: vec![None, None] };
    let shared = Arc::new(Shared::new([9; 16], views, None, None));
    let room = (0..1000).take_while(|lba| repair::ask(&shared, Fault::Torn, Range::new(*lba, 1)));
    assert_eq!(room.count(), 64);
    assert!(repair::ask(&shared, Fault::Torn, Range::new(5, 1)), "it waits already");
}

#[test]
fn an_array_starts_without_a_member_that_cannot_take_the_superblock() {
    let host = load();
    let [a, b] = disks(&host, ["u0", "u1"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    assert_eq!(write(&host, &opened.0, 3, 8, 1), Status::SUCCESS);
    drop(opened);
    forgotten(&host, "u0-raid1");
    [&a, &b].iter().for_each(|disk| disk.unplug(&host));
    b.fail_writes(true);
    b.plug_in(&host);
    a.plug_in(&host);
    host.wait(|| (state_of(&host, "u0-raid1") == "online").then_some(()));
    assert_eq!(show(&host, "u0-raid1")["num_base_bdevs_discovered"], 1);
    let superblock = a.durable_superblock().unwrap();
    assert_eq!(superblock.member(1).unwrap().state, MemberState::Failed);
    let opened = host.open("u0-raid1");
    assert_eq!(read(&host, &opened.0, 3), Ok(8));
    b.fail_writes(false);
    let add = json!({"raid_bdev": "u0-raid1", "base_bdev": "u1"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    wait_until_rebuilt(&host, "u0-raid1");
    deleted(&host, "u0-raid1", opened);
}

#[test]
fn a_refused_bdev_leaves_no_mark_on_the_array() {
    let host = load();
    let [a, b, c, d, e] = disks(&host, ["k0", "k1", "k2", "k3", "k4"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    drop(array(&host, "raid1", &[&c, &d], json!({"superblock": true})));
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "k1"})).unwrap();
    forgotten(&host, "k2-raid1");
    let before = show(&host, "k0-raid1");
    let entry = a.durable_superblock().unwrap().member(1).copied();
    e.fail_writes(true);
    for (bdev, code) in [("k2", -17), ("k4", -5), ("k9", -19)] {
        let add = json!({"raid_bdev": "k0-raid1", "base_bdev": bdev});
        assert_eq!(host.call("bdev_raid_add_base_bdev", &add).unwrap_err().code, code);
        assert_eq!(show(&host, "k0-raid1"), before, "{bdev}");
    }
    assert_eq!(a.durable_superblock().unwrap().member(1).copied(), entry);
    deleted(&host, "k0-raid1", opened);
}

#[test]
fn an_array_that_cannot_be_made_leaves_no_superblock() {
    let host = load();
    let [a, b, _taken] = disks(&host, ["j0", "j1", "j2"]);
    let create = |name: &str| {
        let names = json!(["j0", "j1"]);
        let params =
            json!({"name": name, "raid_level": "raid1", "base_bdevs": names, "superblock": true});
        host.call("bdev_raid_create", &params)
    };
    b.fail_writes(true);
    assert_eq!(create("j").unwrap_err().code, -5);
    b.fail_writes(false);
    assert_eq!(create("j2").unwrap_err().code, -17, "a bdev has this name");
    assert_eq!([&a, &b].map(Ram::durable_superblock), [None, None]);
    create("j").unwrap();
    deleted(&host, "j", host.open("j"));
}

#[test]
fn an_array_ends_while_its_rebuild_waits_for_its_bandwidth() {
    let host = load();
    let [a, b, _c] = disks(&host, ["l0", "l1", "l2"]);
    let opened = array(&host, "raid1", &[&a, &b], json!({"superblock": true}));
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "l1"})).unwrap();
    // The clock stands still, so the rebuild waits after its first window.
    let slow = json!({"process_window_size_kb": 16, "process_max_bandwidth_mb_sec": 1});
    host.call("bdev_raid_set_options", &slow).unwrap();
    let add = json!({"raid_bdev": "l0-raid1", "base_bdev": "l2"});
    host.call("bdev_raid_add_base_bdev", &add).unwrap();
    let copied = || show(&host, "l0-raid1")["process"]["progress"]["blocks"].clone();
    host.wait(|| (copied() == 32).then_some(()));
    deleted(&host, "l0-raid1", opened);
}

#[test]
fn a_bdev_that_one_array_refuses_may_join_another() {
    let host = load();
    let first = Ram::plug(&host, "h0", NUM_BLOCKS);
    let create = |name: &str| {
        let params = json!({"name": name, "raid_level": "raid1", "base_bdevs": ["h0", "later"]});
        host.call("bdev_raid_create", &params).unwrap();
    };
    create("h-first");
    first.unplug(&host);
    create("h-second");
    // The first array waits for the UUID of the bdev that it had.
    let _other = Ram::plug_as(&host, "h0", "another", NUM_BLOCKS);
    host.wait(|| (show(&host, "h-second")["num_base_bdevs_discovered"] == 1).then_some(()));
    assert_eq!(show(&host, "h-first")["num_base_bdevs_discovered"], 0);
    for name in ["h-first", "h-second"] {
        host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
    }
}

#[test]
fn a_long_unmap_of_raid10_is_one_unmap_of_each_member() {
    let host = load();
    let [a, b, c] = disks(&host, ["u0", "u1", "u2"]);
    let opened = array(&host, "raid10", &[&a, &b, &c], json!({"strip_size_kb": 1}));
    let nblocks = 3 * NUM_BLOCKS as u64 / 2 / 2 * 2 - 2;
    for lba in 0..nblocks / 2 {
        assert_eq!(write(&host, &opened.0, 2 * lba, 7, 2), Status::SUCCESS);
    }
    let unmap = Op::Unmap(Range::new(1, nblocks - 2));
    assert!(host.io(&opened.0, unmap, IoFlags::NONE, &mut Vec::new()).status.is_success());
    assert!([&a, &b, &c].iter().all(|disk| disk.unmaps() == 1));
    for lba in [0, 1, 2, 500, nblocks - 2, nblocks - 1] {
        let kept = lba == 0 || lba == nblocks - 1;
        assert_eq!(read(&host, &opened.0, lba), Ok(if kept { 7 } else { 0 }), "lba {lba}");
    }
    deleted(&host, "u0-raid10", opened);
}
