//! raid5 and raid6: writes of parts of rows, degraded reads, rows that several I/Os use, new arrays.

use super::ram::Ram;
use super::{Random, array, deleted, load, read, show, write, write_each};
use crate::{arrays, copy};
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_raid::{Layout, Level, LogArea, fill_parity};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Blocks of the superblock and of the row log, which is 320 KiB long.
const DATA: usize = 2688;
const SIZE: u64 = 32;

fn disks(host: &FakeHost, prefix: &str, members: usize) -> Vec<Ram> {
    let plug = |number| Ram::plug(host, &format!("{prefix}{number}"), DATA + SIZE as usize);
    (0..members).map(plug).collect()
}

/// Makes an array with strips of two blocks.
fn create(
    host: &FakeHost,
    level: Level,
    disks: &[Ram],
) -> ((Channel, drivebay_sdk::bdev::Desc), Layout) {
    create_with(host, level, disks, SIZE)
}

/// As [`create`], over disks with `size` blocks of data.
fn create_with(
    host: &FakeHost,
    level: Level,
    disks: &[Ram],
    size: u64,
) -> ((Channel, drivebay_sdk::bdev::Desc), Layout) {
    let all: Vec<&Ram> = disks.iter().collect();
    let more = json!({"strip_size_kb": 1, "superblock": true});
    let layout = Layout::new(level, 2, &vec![size; disks.len()]).unwrap();
    (array(host, level.name(), &all, more), layout)
}

/// How many blocks of parity differ from those of the data.
fn wrong_parity(layout: &Layout, disks: &[Ram]) -> usize {
    let is_wrong = |lba: u64| {
        let row = layout.row(lba / layout.strip_blocks());
        let block = |disk: &Ram| Some(vec![disk.block(DATA + lba as usize)]);
        let strips: Vec<Option<Vec<u8>>> = disks.iter().map(block).collect();
        row.parities()
            .filter(|slot| {
                let mut right = vec![0];
                assert!(fill_parity(row, row.role(*slot), &strips, &mut right));
                strips[usize::from(*slot)] != Some(right)
            })
            .count()
    };
    (0..SIZE).map(is_wrong).sum()
}

#[test]
fn any_part_of_a_row_may_be_written_and_read_without_as_many_members_as_the_level_can_lose() {
    for (level, members) in
        [(Level::Raid5, 3), (Level::Raid5, 6), (Level::Raid6, 4), (Level::Raid6, 7)]
    {
        let host = load();
        let disks = disks(&host, &format!("ra{level}{members}"), members);
        let (opened, layout) = create(&host, level, &disks);
        let name = format!("{}-{level}", disks[0].name());
        let mut random = Random::new(members as u64);
        let mut model = vec![0; layout.num_blocks() as usize];
        let mut write_some = |model: &mut [u8]| {
            for _ in 0..100 {
                let lba = random.below(layout.num_blocks());
                let rest = layout.row_blocks() - lba % layout.row_blocks();
                let nblocks = 1 + random.below(rest);
                let place = lba as usize..(lba + nblocks) as usize;
                model[place.clone()].fill_with(|| random.below(250) as u8);
                assert_eq!(write_each(&host, &opened.0, lba, &model[place]), Status::SUCCESS);
            }
        };
        write_some(&mut model);
        assert_eq!(wrong_parity(&layout, &disks), 0);
        let is_right = |model: &[u8]| {
            (0..).zip(model).all(|(lba, fill)| read(&host, &opened.0, lba) == Ok(*fill))
        };
        for disk in &disks[1..=usize::from(level.parities())] {
            host.call("bdev_raid_remove_base_bdev", &json!({"name": disk.name()})).unwrap();
            assert!(is_right(&model), "{level} without {}", disk.name());
            write_some(&mut model);
            assert!(is_right(&model), "{level} written without {}", disk.name());
        }
        for disk in &disks[1..=usize::from(level.parities())] {
            let add = json!({"raid_bdev": name, "base_bdev": disk.name()});
            host.wait(|| host.call("bdev_raid_add_base_bdev", &add).is_ok().then_some(()));
            write_some(&mut model);
            host.wait(|| show(&host, &name)["process"].is_null().then_some(()));
        }
        assert_eq!(wrong_parity(&layout, &disks), 0);
        assert!(is_right(&model));
        deleted(&host, &name, opened);
    }
}

#[test]
fn a_bad_block_is_computed_from_the_rest_of_its_row_also_for_a_write() {
    let host = load();
    let disks = disks(&host, "rb", 4);
    let (opened, layout) = create(&host, Level::Raid6, &disks);
    let fills: Vec<u8> = (1..=4).collect();
    assert_eq!(write_each(&host, &opened.0, 0, &fills), Status::SUCCESS);
    let place = layout.place(1);
    let bad = &disks[usize::from(place.member)];
    bad.fail_reads_at(Some(DATA as u64 + place.lba));
    assert_eq!(read(&host, &opened.0, 1), Ok(2));
    // The write to the other strip modifies the parity of the blocks beside the bad one.
    assert_eq!(write(&host, &opened.0, 3, 9, 1), Status::SUCCESS);
    assert_eq!([0, 1, 2, 3].map(|lba| read(&host, &opened.0, lba)), [Ok(1), Ok(2), Ok(3), Ok(9)]);
    bad.fail_reads_at(None);
    host.wait(|| (wrong_parity(&layout, &disks) == 0).then_some(()));
    deleted(&host, "rb0-raid6", opened);
}

#[test]
fn two_bad_blocks_of_a_row_are_computed_from_the_rest_of_it_on_raid6() {
    let host = load();
    let disks = disks(&host, "rk", 5);
    let (opened, layout) = create(&host, Level::Raid6, &disks);
    let fills: Vec<u8> = (1..=6).collect();
    assert_eq!(write_each(&host, &opened.0, 0, &fills), Status::SUCCESS);
    host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
    // The first blocks of two strips.
    let bad = [0, 2].map(|lba| layout.place(lba));
    for place in bad {
        disks[usize::from(place.member)].fail_reads_at(Some(DATA as u64 + place.lba));
    }
    let all = || [0, 1, 2, 3, 4, 5].map(|lba| read(&host, &opened.0, lba));
    assert_eq!(all(), [1, 2, 3, 4, 5, 6].map(Ok));
    // The write changes a part of each of these strips.
    assert_eq!(write_each(&host, &opened.0, 1, &[12, 13]), Status::SUCCESS);
    assert_eq!(all(), [1, 12, 13, 4, 5, 6].map(Ok));
    disks.iter().for_each(|disk| disk.fail_reads_at(None));
    host.wait(|| (wrong_parity(&layout, &disks) == 0).then_some(()));
    assert_eq!(all(), [1, 12, 13, 4, 5, 6].map(Ok));
    deleted(&host, "rk0-raid6", opened);
}

/// Begins a write of one block. At its end, the cell gets whether it succeeded.
fn begin_write(desc: &Arc<drivebay_sdk::bdev::Desc>, lba: u64, fill: u8) -> Rc<Cell<Option<bool>>> {
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

#[test]
fn writes_to_one_row_go_one_after_the_other() {
    let host = load();
    let disks = disks(&host, "rc", 3);
    let ((channel, desc), layout) = create(&host, Level::Raid5, &disks);
    host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
    let desc = Arc::new(desc);
    disks[0].hang();
    let writes: Vec<_> = (0..4).map(|lba| begin_write(&desc, lba, lba as u8 + 1)).collect();
    let elsewhere = disks[0].writes().len();
    (0..50).for_each(|_| host.run());
    assert!(writes.iter().all(|write| write.get().is_none()));
    assert_eq!(disks[0].writes().len(), elsewhere);
    for _ in 0..20 {
        disks[0].answer();
        (0..20).for_each(|_| host.run());
    }
    assert!(writes.iter().all(|write| write.get() == Some(true)));
    assert_eq!([0, 1, 2, 3].map(|lba| read(&host, &channel, lba)), [Ok(1), Ok(2), Ok(3), Ok(4)]);
    assert_eq!(wrong_parity(&layout, &disks), 0);
    drop(channel);
    drop(desc);
    host.call("bdev_raid_delete", &json!({"name": "rc0-raid5"})).unwrap();
}

#[test]
fn writes_that_need_more_buffers_than_a_channel_has_wait_and_succeed() {
    let host = load();
    // 512 KiB: a channel has 15 buffers, and a write that computes parity from data needs 3.
    let (strip, rows) = (1024, 8);
    let disks: Vec<Ram> =
        (0..3).map(|number| Ram::plug(&host, &format!("rg{number}"), 20 * strip)).collect();
    let all: Vec<&Ram> = disks.iter().collect();
    let more = json!({"strip_size_kb": 512, "superblock": true});
    let (channel, desc) = array(&host, "raid5", &all, more);
    let desc = Arc::new(desc);
    disks.iter().for_each(Ram::hang);
    let place = |row: usize| (row * 2 * strip) as u64;
    let writes: Vec<_> =
        (0..rows).map(|row| begin_write(&desc, place(row), row as u8 + 1)).collect();
    host.wait(|| {
        disks.iter().for_each(Ram::answer_waiting);
        writes.iter().all(|write| write.get().is_some()).then_some(())
    });
    disks.iter().for_each(Ram::answer);
    assert!(writes.iter().all(|write| write.get() == Some(true)));
    for row in 0..rows {
        assert_eq!(read(&host, &channel, place(row)), Ok(row as u8 + 1));
    }
    drop((channel, desc));
    host.call("bdev_raid_delete", &json!({"name": "rg0-raid5"})).unwrap();
}

#[test]
fn a_drain_waits_for_all_steps_of_a_write() {
    let host = load();
    let disks = disks(&host, "rh", 3);
    let ((channel, desc), _) = create(&host, Level::Raid5, &disks);
    host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
    let desc = Arc::new(desc);
    disks[0].hang();
    let write = begin_write(&desc, 0, 1);
    (0..20).for_each(|_| host.run());
    let drained = Rc::new(Cell::new(None));
    let end = Rc::clone(&drained);
    let shared = arrays::by_name("rh0-raid5").unwrap().shared.borrow().clone().unwrap();
    let drain = async move {
        shared.switch(|_| {}).await.unwrap();
        end.set(Some(shared.drain().await));
    };
    task::spawn("test drain", drain).unwrap().detach();
    let mut answers = 0;
    while write.get().is_none() {
        (0..20).for_each(|_| host.run());
        assert_eq!((write.get(), drained.get()), (None, None), "after {answers} answers");
        disks[0].answer_waiting();
        (0..20).for_each(|_| host.run());
        answers += 1;
    }
    assert!(answers > 2, "the write had {answers} steps on this member");
    host.wait(|| drained.get());
    assert_eq!((write.get(), drained.get()), (Some(true), Some(true)));
    disks[0].answer();
    drop((channel, desc));
    host.call("bdev_raid_delete", &json!({"name": "rh0-raid5"})).unwrap();
}

#[test]
fn a_member_that_fails_in_any_step_of_a_write_leaves_and_the_write_succeeds() {
    for step in 0..8 {
        let host = load();
        let disks = disks(&host, &format!("rd{step}"), 4);
        let (opened, layout) = create(&host, Level::Raid5, &disks);
        let name = format!("rd{step}0-raid5");
        let fills: Vec<u8> = (1..=6).collect();
        assert_eq!(write_each(&host, &opened.0, 0, &fills), Status::SUCCESS);
        host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
        let failing = &disks[usize::from(layout.place(0).member)];
        failing.fail_writes_after(step);
        assert_eq!(write_each(&host, &opened.0, 0, &[11, 12]), Status::SUCCESS, "step {step}");
        let expected = [11, 12, 3, 4, 5, 6].map(Ok);
        for _ in 0..2 {
            let found = [0, 1, 2, 3, 4, 5].map(|lba| read(&host, &opened.0, lba));
            assert_eq!(found, expected, "step {step}");
        }
        failing.fail_writes(false);
        if show(&host, &name)["num_base_bdevs_discovered"] == 3 {
            let add = json!({"raid_bdev": name, "base_bdev": failing.name()});
            host.call("bdev_raid_add_base_bdev", &add).unwrap();
            host.wait(|| show(&host, &name)["process"].is_null().then_some(()));
        }
        assert_eq!(wrong_parity(&layout, &disks), 0, "step {step}");
        deleted(&host, &name, opened);
    }
}

#[test]
fn two_members_that_fail_in_any_steps_of_a_write_leave_and_the_write_succeeds() {
    let host = load();
    for (first, second) in (0..5).flat_map(|first| (0..5).map(move |second| (first, second))) {
        let disks = disks(&host, &format!("ri{first}{second}"), 5);
        let (opened, layout) = create(&host, Level::Raid6, &disks);
        let name = format!("{}-raid6", disks[0].name());
        let fills: Vec<u8> = (1..=6).collect();
        assert_eq!(write_each(&host, &opened.0, 0, &fills), Status::SUCCESS);
        let of = |lba| &disks[usize::from(layout.place(lba).member)];
        of(0).fail_writes_after(first);
        of(2).fail_writes_after(second);
        let what = format!("{first} and {second} writes");
        assert_eq!(write_each(&host, &opened.0, 1, &[12, 13, 14]), Status::SUCCESS, "{what}");
        for _ in 0..2 {
            let found = [0, 1, 2, 3, 4, 5].map(|lba| read(&host, &opened.0, lba));
            assert_eq!(found, [1, 12, 13, 14, 5, 6].map(Ok), "{what}");
        }
        deleted(&host, &name, opened);
        disks.iter().for_each(|disk| disk.unplug(&host));
    }
}

#[test]
fn after_a_crash_that_spoils_the_log_blocks_of_a_missing_member_are_not_computed() {
    let host = load();
    let disks = disks(&host, "rj", 3);
    let (opened, layout) = create(&host, Level::Raid5, &disks);
    host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "rj2"})).unwrap();
    disks[2].unplug(&host);
    for row in 0..3 {
        assert_eq!(write_each(&host, &opened.0, 4 * row, &[7; 4]), Status::SUCCESS);
    }
    let images: Vec<Vec<u8>> = disks[..2].iter().map(Ram::contents).collect();
    drop(opened);
    host.call("bdev_raid_delete", &json!({"name": "rj0-raid5"})).unwrap();
    let header = LogArea::new(1024, 512).header_at(0) / 512;
    for is_readable in [false, true] {
        disks[0].fail_reads_at((!is_readable).then_some(header));
        for (disk, image) in disks.iter().zip(&images) {
            disk.unplug(&host);
            disk.overwrite(0, image);
            disk.plug_in(&host);
        }
        host.wait(|| (show(&host, "rj0-raid5")["state"] == "online").then_some(()));
        let opened = host.open("rj0-raid5");
        for lba in 0..12 {
            let is_there = is_readable || layout.place(lba).member != 2;
            let expected = if is_there { Ok(7) } else { Err(Status::MEDIA) };
            assert_eq!(read(&host, &opened.0, lba), expected, "block {lba}");
        }
        drop(opened);
        host.call("bdev_raid_delete", &json!({"name": "rj0-raid5"})).unwrap();
    }
}

#[test]
fn a_mark_counts_for_all_strips_of_a_row_that_lies_in_two_regions() {
    let host = load();
    let disks: Vec<Ram> =
        (0..4).map(|number| Ram::plug(&host, &format!("rm{number}"), DATA + 700)).collect();
    let (opened, layout) = create_with(&host, Level::Raid5, &disks, 700);
    host.wait(|| host.log().iter().any(|line| line.contains("are equal again")).then_some(()));
    for _ in 0..4 {
        host.advance(std::time::Duration::from_secs(6));
        (0..100).for_each(|_| host.run());
    }
    // The row of blocks 2046 to 2051. The second region begins at block 2048, in the second strip.
    let lost = layout.place(2048).member;
    assert_ne!(layout.place(2046).member, lost);
    let gone = &disks[usize::from(lost)];
    let left: Vec<&Ram> = disks.iter().filter(|disk| disk.uuid() != gone.uuid()).collect();
    host.call("bdev_raid_remove_base_bdev", &json!({"name": gone.name()})).unwrap();
    gone.unplug(&host);
    assert_eq!(write(&host, &opened.0, 2046, 7, 1), Status::SUCCESS);
    let marked = left[0].durable_intent().unwrap().regions;
    assert_eq!(marked.iter().collect::<Vec<_>>(), [0]);
    let images: Vec<Vec<u8>> = left.iter().map(|disk| disk.contents()).collect();
    drop(opened);
    host.call("bdev_raid_delete", &json!({"name": "rm0-raid5"})).unwrap();
    left[0].fail_reads_at(Some(LogArea::new(1024, 512).header_at(0) / 512));
    for (disk, image) in left.iter().zip(&images) {
        disk.unplug(&host);
        disk.overwrite(0, image);
        disk.plug_in(&host);
    }
    host.wait(|| (show(&host, "rm0-raid5")["state"] == "online").then_some(()));
    let opened = host.open("rm0-raid5");
    assert_eq!(read(&host, &opened.0, 2046), Ok(7));
    assert_eq!(read(&host, &opened.0, 2048), Err(Status::MEDIA));
    let elsewhere = (2070..2100).find(|lba| layout.place(*lba).member == lost).unwrap();
    assert_eq!(read(&host, &opened.0, elsewhere), Ok(0));
    drop(opened);
    host.call("bdev_raid_delete", &json!({"name": "rm0-raid5"})).unwrap();
}

#[test]
fn a_new_array_over_used_disks_computes_its_parity_and_protects_writes_before_that() {
    let host = load();
    for (level, members) in [(Level::Raid5, 3), (Level::Raid6, 5)] {
        let disks = disks(&host, &format!("re{level}"), members);
        let mut random = Random::new(5);
        for disk in &disks {
            let noise: Vec<u8> = (0..SIZE * 512).map(|_| random.below(250) as u8).collect();
            disk.overwrite(DATA, &noise);
        }
        let (opened, layout) = create(&host, level, &disks);
        let name = format!("re{level}0-{level}");
        assert_eq!(write_each(&host, &opened.0, 1, &[1, 2]), Status::SUCCESS);
        host.call("bdev_raid_remove_base_bdev", &json!({"name": disks[1].name()})).unwrap();
        assert_eq!([1, 2].map(|lba| read(&host, &opened.0, lba)), [Ok(1), Ok(2)]);
        let add = json!({"raid_bdev": name, "base_bdev": disks[1].name()});
        host.call("bdev_raid_add_base_bdev", &add).unwrap();
        host.wait(|| show(&host, &name)["process"].is_null().then_some(()));
        for _ in 0..4 {
            host.advance(std::time::Duration::from_secs(6));
            (0..30).for_each(|_| host.run());
        }
        assert_eq!(wrong_parity(&layout, &disks), 0);
        assert_eq!([1, 2].map(|lba| read(&host, &opened.0, lba)), [Ok(1), Ok(2)]);
        deleted(&host, &name, opened);
    }
}

#[test]
fn a_block_that_is_written_before_the_parity_is_right_survives_the_loss_of_two_members() {
    let host = load();
    let disks = disks(&host, "rn", 5);
    let mut random = Random::new(7);
    for disk in &disks {
        let noise: Vec<u8> = (0..SIZE * 512).map(|_| random.below(250) as u8).collect();
        disk.overwrite(DATA, &noise);
    }
    // Bad blocks in the first row keep the array from computing its parity.
    let bad = Some(DATA as u64 + 1);
    disks.iter().for_each(|disk| disk.fail_reads_at(bad));
    let (opened, layout) = create(&host, Level::Raid6, &disks);
    host.wait(|| host.log().iter().any(|line| line.contains("may differ: ")).then_some(()));
    disks.iter().for_each(|disk| disk.fail_reads_at(None));
    let lose = |strip: u8| {
        let gone = disks[usize::from(layout.row(0).data(strip))].name();
        host.call("bdev_raid_remove_base_bdev", &json!({"name": gone})).unwrap();
    };
    lose(1);
    assert_eq!(write(&host, &opened.0, 0, 9, 1), Status::SUCCESS);
    lose(0);
    assert_eq!(read(&host, &opened.0, 0), Ok(9));
    deleted(&host, "rn0-raid6", opened);
}

#[test]
fn rows_without_one_of_their_data_strips_do_not_count_as_repaired() {
    let host = load();
    let disks = disks(&host, "ro", 3);
    let (opened, layout) = create(&host, Level::Raid5, &disks);
    host.call("bdev_raid_remove_base_bdev", &json!({"name": "ro1"})).unwrap();
    let seen: Rc<Cell<Option<bool>>> = Rc::default();
    for row in 0..3 {
        let result = Rc::clone(&seen);
        let blocks = Range::new(row * layout.row_blocks(), 1);
        let repair = async move {
            let array = arrays::by_name("ro0-raid5").unwrap();
            result.set(Some(copy::make_equal(&array, blocks).await.is_ok()));
        };
        task::spawn("test", repair).unwrap().detach();
        let is_repaired = host.wait(|| seen.take());
        let lacks_data = (0..2).any(|strip| layout.row(row).data(strip) == 1);
        assert_eq!(is_repaired, !lacks_data, "row {row}");
    }
    deleted(&host, "ro0-raid5", opened);
}

#[test]
fn a_level_with_a_log_needs_a_superblock_and_strips_of_at_most_a_mebibyte() {
    let host = load();
    let disks: Vec<Ram> =
        (0..3).map(|number| Ram::plug(&host, &format!("rf{number}"), 20_000)).collect();
    let names: Vec<String> = disks.iter().map(Ram::name).collect();
    let mut create =
        json!({"name": "rf", "raid_level": "5", "strip_size_kb": 4, "base_bdevs": names});
    let refused = host.call("bdev_raid_create", &create).unwrap_err();
    assert!(refused.code == -22 && refused.message.contains("superblock"), "{refused:?}");
    create["superblock"] = true.into();
    create["strip_size_kb"] = 2048.into();
    let refused = host.call("bdev_raid_create", &create).unwrap_err();
    assert!(refused.code == -22 && refused.message.contains("strip_size_kb"), "{refused:?}");
}
