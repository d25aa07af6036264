//! Members that SPDK wrote: found, read, rebuilt.
//!
//! `members/` has the members of arrays that its own tools made and filled, at a development version after 26.05. After
//! that, one member of each `*.degraded` was removed, and the first half of the array was written again. A file is the
//! number of members (1 byte) and for each its size (8), the number of records (4), and a record for each 4 KiB block
//! that is not zero: number (4), length (2), bytes. The length with 0x8000: the bytes are repeated; else zeros follow.
//!
//! Each 4 KiB block of an array has its number plus one, times a constant, times 1 or, when it was written again, 3.

use super::ram::Ram;
use super::{deleted, load, show};
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use std::path::Path;

const BLOCK: usize = 4096;
/// 512-byte blocks in a 4 KiB block.
const SECTORS: u64 = 8;

/// The contents of each member.
fn members(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/members");
    let file = std::fs::read(folder.join(name)).unwrap();
    let (count, mut rest) = file.split_first().unwrap();
    let mut take = |len: usize| {
        let bytes;
        (bytes, rest) = rest.split_at(len);
        bytes
    };
    let mut members = Vec::new();
    for _ in 0..*count {
        let mut member = vec![0; u64::from_le_bytes(take(8).try_into().unwrap()) as usize];
        for _ in 0..u32::from_le_bytes(take(4).try_into().unwrap()) {
            let number = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
            let kind = usize::from(u16::from_le_bytes(take(2).try_into().unwrap()));
            let bytes = take(kind & 0x7fff);
            let block = &mut member[number * BLOCK..][..BLOCK];
            match kind & 0x8000 {
                0 => block[..bytes.len()].copy_from_slice(bytes),
                _ => block.chunks_mut(bytes.len()).for_each(|part| part.copy_from_slice(bytes)),
            }
        }
        members.push(member);
    }
    members
}

/// Checks the whole array, of which the first half may have been written again.
fn check(host: &FakeHost, channel: &Channel, num_blocks: u64, is_degraded: bool) {
    for number in 0..num_blocks / SECTORS {
        let mut data = vec![0; BLOCK];
        let op = Op::Read(Range::new(number * SECTORS, SECTORS));
        assert!(host.io(channel, op, IoFlags::NONE, &mut data).status.is_success(), "{number}");
        let salt = if is_degraded && number < num_blocks / SECTORS / 2 { 3 } else { 1 };
        let unit = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(salt);
        assert_eq!(data, unit.to_le_bytes().repeat(BLOCK / 8), "block {number}");
    }
}

/// Plugs the members in, the last one first, and reads the array.
fn run(level: &str, state: &str) {
    let host = load();
    let is_degraded = state == "degraded";
    let images = members(&format!("{level}.{state}"));
    let disks: Vec<Ram> = (1_u8..)
        .zip(&images)
        .map(|(number, image)| {
            let mut uuid = *b"\0\0\0\0\0\0\x40\0\x80\0\0\0\0\0\0\0";
            uuid[15] = number;
            Ram::with_contents(&format!("m{}", number - 1), uuid, image)
        })
        .collect();
    disks.iter().rev().for_each(|disk| disk.plug_in(&host));
    host.wait(|| (show(&host, "r")["state"] == "online").then_some(()));
    let opened = host.open("r");
    let num_blocks = opened.1.info().unwrap().num_blocks();
    let data = 2048 * images.len() as u64;
    let expected = match level {
        "raid1" => 2048,
        "raid5f" => data - 2048,
        _ => data,
    };
    assert_eq!(num_blocks, expected);
    check(&host, &opened.0, num_blocks, is_degraded);
    if is_degraded {
        // The member that was removed is rebuilt by itself, and then another one can be missing.
        host.wait(|| {
            let shown = show(&host, "r");
            let is_whole = shown["num_base_bdevs_discovered"] == images.len();
            (shown["process"].is_null() && is_whole).then_some(())
        });
        host.call("bdev_raid_remove_base_bdev", &json!({"name": "m0"})).unwrap();
        check(&host, &opened.0, num_blocks, is_degraded);
    }
    deleted(&host, "r", opened);
    disks.iter().for_each(|disk| disk.unplug(&host));
}

#[test]
fn arrays_of_the_reference_read_as_it_wrote_them() {
    for level in ["raid0", "concat", "raid1", "raid5f"] {
        run(level, "clean");
    }
}

#[test]
fn degraded_arrays_of_the_reference_read_as_it_wrote_them_and_are_rebuilt() {
    for level in ["raid1", "raid5f"] {
        run(level, "degraded");
    }
}
