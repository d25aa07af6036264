#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod faults;
mod foreign;
mod grow;
mod hangs;
mod intent;
mod model;
mod parity;
mod power_cuts;
mod ram;
mod removal;
mod rows;
mod scrub;

use drivebay_sdk::bdev::{Channel, Desc};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use ram::{BLOCK, Ram};

fn load() -> FakeHost {
    FakeHost::load(&crate::bay_door::bay_plugin_v1)
}

fn show(host: &FakeHost, name: &str) -> Value {
    let all = host.call("bdev_raid_get_bdevs", &json!({"category": "all"})).unwrap();
    let all = all.as_array().unwrap();
    all.iter().find(|array| array["name"] == name).cloned().unwrap_or(Value::Null)
}

fn write(host: &FakeHost, channel: &Channel, lba: u64, fill: u8, nblocks: u64) -> Status {
    let mut data = vec![fill; nblocks as usize * BLOCK as usize];
    host.io(channel, Op::Write(Range::new(lba, nblocks)), IoFlags::NONE, &mut data).status
}

/// Writes blocks, each filled with its own byte.
fn write_each(host: &FakeHost, channel: &Channel, lba: u64, fills: &[u8]) -> Status {
    let mut data: Vec<u8> = fills.iter().flat_map(|fill| [*fill; BLOCK as usize]).collect();
    let range = Range::new(lba, fills.len() as u64);
    host.io(channel, Op::Write(range), IoFlags::NONE, &mut data).status
}

/// Reads a block whose bytes are all the same, and returns that byte.
fn read(host: &FakeHost, channel: &Channel, lba: u64) -> Result<u8, Status> {
    let mut data = vec![0xee; BLOCK as usize];
    let result = host.io(channel, Op::Read(Range::new(lba, 1)), IoFlags::NONE, &mut data);
    if !result.status.is_success() {
        return Err(result.status);
    }
    assert!(data.iter().all(|byte| *byte == data[0]), "a block is torn");
    Ok(data[0])
}

/// Makes an array and opens it.
fn array(host: &FakeHost, level: &str, disks: &[&Ram], more: Value) -> (Channel, Desc) {
    let name = format!("{}-{level}", disks[0].name());
    let names: Vec<String> = disks.iter().map(|disk| disk.name()).collect();
    let mut params = json!({"name": name, "raid_level": level, "base_bdevs": names});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.call("bdev_raid_create", &params).unwrap();
    assert_eq!(show(host, &name)["state"], "online");
    host.open(&name)
}

fn deleted(host: &FakeHost, name: &str, opened: (Channel, Desc)) {
    drop(opened);
    host.call("bdev_raid_delete", &json!({"name": name, "clear_sb": true})).unwrap();
    assert_eq!(show(host, name), Value::Null);
}

#[test]
fn raid0_deals_strips_over_its_members_and_zeroes_each_in_one_run() {
    let host = load();
    let (a, b) = (Ram::plug(&host, "s0", 64), Ram::plug(&host, "s1", 70));
    let opened = array(&host, "raid0", &[&a, &b], json!({"strip_size_kb": 1}));
    assert_eq!(opened.1.info().unwrap().num_blocks(), 128);
    // The real bus splits at strips.
    for lba in 0..8 {
        assert_eq!(write(&host, &opened.0, lba, lba as u8 + 1, 1), Status::SUCCESS);
    }
    assert_eq!([0, 1, 2, 3].map(|lba| a.block(lba)), [1, 2, 5, 6]);
    assert_eq!([0, 1, 2, 3].map(|lba| b.block(lba)), [3, 4, 7, 8]);
    let zeroes = Op::WriteZeroes(Range::new(1, 5));
    let result = host.io(&opened.0, zeroes, IoFlags::NONE, &mut Vec::new());
    assert!(result.status.is_success());
    assert_eq!([0, 1, 2, 3].map(|lba| a.block(lba)), [1, 0, 0, 0]);
    assert_eq!([0, 1, 2, 3].map(|lba| b.block(lba)), [0, 0, 7, 8]);
    deleted(&host, "s0-raid0", opened);
    assert_eq!(host.call("bdev_raid_delete", &json!({"name": "s0-raid0"})).unwrap_err().code, -19);
}

#[test]
fn concat_has_one_member_after_the_other() {
    let host = load();
    let (a, b) = (Ram::plug(&host, "c0", 65), Ram::plug(&host, "c1", 8));
    let opened = array(&host, "concat", &[&a, &b], json!({"strip_size_kb": 1}));
    assert_eq!(opened.1.info().unwrap().num_blocks(), 64 + 8);
    assert_eq!(write(&host, &opened.0, 64, 9, 1), Status::SUCCESS);
    assert_eq!((b.block(0), read(&host, &opened.0, 64)), (9, Ok(9)));
    deleted(&host, "c0-concat", opened);
}

#[test]
fn raid1_writes_to_all_and_flushes_all() {
    let host = load();
    let disks = ["m0", "m1", "m2"].map(|name| Ram::plug(&host, name, 64));
    let opened = array(&host, "raid1", &[&disks[0], &disks[1], &disks[2]], json!({}));
    assert_eq!(write(&host, &opened.0, 5, 7, 2), Status::SUCCESS);
    assert!(disks.iter().all(|disk| disk.block(5) == 7 && disk.block(6) == 7));
    let result = host.io(&opened.0, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert!(result.status.is_success());
    assert!(disks.iter().all(|disk| disk.flushes() == 1));
    deleted(&host, "m0-raid1", opened);
}

#[test]
fn raid10_has_two_copies_and_lives_as_long_as_one_of_each_is_there() {
    let host = load();
    let disks = ["t0", "t1", "t2", "t3"].map(|name| Ram::plug(&host, name, 64));
    let all = [&disks[0], &disks[1], &disks[2], &disks[3]];
    let opened = array(&host, "raid10", &all, json!({"strip_size_kb": 1}));
    for lba in 0..8 {
        assert_eq!(write(&host, &opened.0, lba, lba as u8 + 1, 1), Status::SUCCESS);
    }
    for gone in ["t0", "t3"] {
        host.call("bdev_raid_remove_base_bdev", &json!({"name": gone})).unwrap();
    }
    for lba in 0..8 {
        assert_eq!(read(&host, &opened.0, lba), Ok(lba as u8 + 1));
    }
    drop(opened);
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "t1"})).unwrap();
    assert_eq!(show(&host, "t0-raid10")["state"], "offline");
    host.call("bdev_raid_delete", &json!({"name": "t0-raid10"})).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_the_references_codes() {
    let host = load();
    let _disks = ["e0", "e1"].map(|name| Ram::plug(&host, name, 64));
    let code = |params: Value| host.call("bdev_raid_create", &params).unwrap_err().code;
    let names = json!(["e0", "e1"]);
    assert_eq!(code(json!({"name": "e", "raid_level": "raid0", "base_bdevs": names})), -22);
    let strip = json!({"name": "e", "raid_level": "1", "strip_size_kb": 4, "base_bdevs": names});
    assert_eq!(code(strip), -22);
    assert_eq!(code(json!({"name": "e", "raid_level": "1", "base_bdevs": ["e0"]})), -22);
    assert_eq!(code(json!({"name": "e", "raid_level": "1", "base_bdevs": ["e0", "e0"]})), -1);
    let good = json!({"name": "e", "raid_level": "1", "base_bdevs": names});
    host.call("bdev_raid_create", &good).unwrap();
    assert_eq!(code(good), -17);
    let add = json!({"raid_bdev": "e", "base_bdev": "e0"});
    assert_eq!(host.call("bdev_raid_add_base_bdev", &add).unwrap_err().code, -22);
    for window in [0, 65_537, u32::MAX] {
        let options = json!({"process_window_size_kb": window});
        assert_eq!(host.call("bdev_raid_set_options", &options).unwrap_err().code, -22);
    }
    host.call("bdev_raid_delete", &json!({"name": "e"})).unwrap();
}

#[test]
fn an_array_without_a_superblock_waits_for_members_by_name() {
    let host = load();
    let params = json!({"name": "w", "raid_level": "raid1", "base_bdevs": ["w0", "w1"]});
    let first = Ram::plug(&host, "w0", 64);
    host.call("bdev_raid_create", &params).unwrap();
    let shown = show(&host, "w");
    assert_eq!(shown["state"], "configuring");
    assert_eq!(
        (&shown["num_base_bdevs_discovered"], &shown["num_base_bdevs_operational"]),
        (&json!(1), &json!(2))
    );
    let second = Ram::plug(&host, "w1", 64);
    host.wait(|| (show(&host, "w")["state"] == "online").then_some(()));
    let opened = host.open("w");
    assert_eq!(write(&host, &opened.0, 1, 3, 1), Status::SUCCESS);
    assert_eq!((first.block(1), second.block(1)), (3, 3));
    deleted(&host, "w", opened);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
