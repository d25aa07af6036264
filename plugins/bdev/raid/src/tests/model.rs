//! Compares an array with a model of its data, while members fail, leave and return at random.

use super::ram::Ram;
use super::{Random, array, load, read, show, write_each};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;

const NUM_BLOCKS: u64 = 48;

/// How many members have all current data.
fn whole(host: &FakeHost, name: &str) -> usize {
    let shown = show(host, name);
    let there = shown["num_base_bdevs_discovered"].as_u64().unwrap() as usize;
    there - usize::from(!shown["process"].is_null())
}

fn run(level: &str, seed: u64, has_superblock: bool) {
    let host = load();
    let mut random = Random::new(seed);
    let has_log = matches!(level, "raid5" | "raid6");
    let members = if has_log { 5 } else { 3 };
    let names: Vec<String> =
        (0..members).map(|number| format!("{level}{seed}{has_superblock}x{number}")).collect();
    // The log is 320 KiB long.
    let before = if has_log { 2688 } else { 2048 };
    let disks: Vec<Ram> = names.iter().map(|name| Ram::plug(&host, name, before + 64)).collect();
    let all: Vec<&Ram> = disks.iter().collect();
    let strip = if level == "raid1" { 0 } else { 1 };
    // raid5f takes only whole stripes: two data strips of two blocks.
    let unit = if level == "raid5f" { 4 } else { 1 };
    let more = json!({"superblock": has_superblock, "strip_size_kb": strip});
    let (channel, desc) = array(&host, level, &all, more);
    let name = format!("{}-{level}", names[0]);
    let mut model = [0; NUM_BLOCKS as usize];
    let most_missing = if matches!(level, "raid1" | "raid6") { 2 } else { 1 };
    // Data blocks of a row.
    let row = if level == "raid6" { 6 } else { 8 };
    for step in 0..400 {
        let what = format!("{level}, seed {seed}, step {step}");
        let pick = random.below(members as u64) as usize;
        match random.below(16) {
            0..=5 => {
                let lba = random.below(NUM_BLOCKS / unit) * unit;
                let room = match level {
                    "raid1" => (NUM_BLOCKS - lba).min(4),
                    "raid10" => 2 - lba % 2,
                    "raid5" | "raid6" => row - lba % row,
                    _ => unit,
                };
                let nblocks = unit.max(1 + random.below(room));
                let place = lba as usize..(lba + nblocks) as usize;
                model[place.clone()].fill_with(|| random.below(250) as u8);
                let written = write_each(&host, &channel, lba, &model[place]);
                assert_eq!(written, Status::SUCCESS, "{what}");
            }
            6..=11 => {
                let lba = random.below(NUM_BLOCKS);
                assert_eq!(
                    read(&host, &channel, lba),
                    Ok(model[lba as usize]),
                    "{what}, lba {lba}"
                );
            }
            12 if whole(&host, &name) > members - most_missing => {
                disks[pick].fail_writes(true);
                let lba = random.below(NUM_BLOCKS / unit) * unit;
                let place = lba as usize..(lba + unit) as usize;
                model[place.clone()].fill_with(|| random.below(250) as u8);
                let written = write_each(&host, &channel, lba, &model[place]);
                assert_eq!(written, Status::SUCCESS, "{what}");
                for _ in 0..30 {
                    host.run();
                }
                disks[pick].fail_writes(false);
            }
            13 if whole(&host, &name) > members - most_missing
                && host.registered(&names[pick]).is_some() =>
            {
                disks[pick].unplug(&host);
            }
            _ => {
                // A missing member returns. An array with a superblock takes it back automatically, another one by the call.
                if host.registered(&names[pick]).is_none() {
                    disks[pick].plug_in(&host);
                }
                let add = json!({"raid_bdev": name, "base_bdev": names[pick]});
                let _ = host.call("bdev_raid_add_base_bdev", &add);
                for _ in 0..random.below(200) {
                    host.run();
                }
            }
        }
    }
    host.wait(|| show(&host, &name)["process"].is_null().then_some(()));
    for (lba, expected) in (0..).zip(model) {
        for _ in 0..3 {
            assert_eq!(read(&host, &channel, lba), Ok(expected), "{level}, seed {seed}, lba {lba}");
        }
    }
    drop((channel, desc));
    host.call("bdev_raid_delete", &json!({"name": name})).unwrap();
}

/// Runs with and without a superblock.
fn run_all(level: &str) {
    for seed in 1..=8 {
        run(level, seed, seed % 2 == 0);
    }
}

#[test]
fn raid1_reads_what_was_written_whatever_happens_to_its_members() {
    run_all("raid1");
}

#[test]
fn raid10_reads_what_was_written_whatever_happens_to_its_members() {
    run_all("raid10");
}

#[test]
fn raid5_reads_what_was_written_whatever_happens_to_its_members() {
    (1..=16).for_each(|seed| run("raid5", seed, true));
}

#[test]
fn raid6_reads_what_was_written_whatever_happens_to_two_of_its_members() {
    (1..=16).for_each(|seed| run("raid6", seed, true));
}

#[test]
fn raid5f_reads_what_was_written_whatever_happens_to_its_members() {
    run_all("raid5f");
}
