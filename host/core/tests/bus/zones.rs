//! Zones: what the bus checks of their ops, and that it keeps appends whole and writes in order.

use crate::fixture::*;
use drivebay_plugin_api::*;

/// 8 zones of 8 blocks.
fn zoned(reg: &mut bay_bdev_reg) {
    reg.zone_size = 8;
    reg.max_zone_append = 4;
    reg.ops_mask |= 1 << BAY_OP_ZONE_REPORT | 1 << BAY_OP_ZONE_MANAGE | 1 << BAY_OP_ZONE_APPEND;
}

fn manage(f: &Fixture, lba: u64, action: u64) -> i32 {
    let done = f.submit(|io| (io.op, io.lba, io.arg[0]) = (BAY_OP_ZONE_MANAGE, lba, action));
    done.get().unwrap().0
}

fn report(f: &Fixture, lba: u64, zones: u64, memory: &mut [u8]) -> i32 {
    let list = list(memory);
    let done = f.submit(|io| {
        (io.op, io.lba, io.arg[0]) = (BAY_OP_ZONE_REPORT, lba, zones);
        (io.iov, io.iovcnt) = (list.as_ptr(), 1);
    });
    done.get().unwrap().0
}

#[test]
fn only_known_actions_on_whole_zones_reach_the_module() {
    once("actions", zoned, |f| {
        for (lba, action) in [
            (0, 0),
            (0, BAY_ZONE_OFFLINE + 1),
            (1, BAY_ZONE_RESET),
            (64, BAY_ZONE_RESET),
            (8, BAY_ZONE_RESET | BAY_ZONE_ALL),
            (0, BAY_ZONE_RESET | 1 << 9),
        ] {
            assert_eq!(manage(f, lba, action), -libc::EINVAL, "{action} at {lba}");
        }
        assert_eq!(f.seen(), []);
        assert_eq!(manage(f, 56, BAY_ZONE_CLOSE), 0);
        assert_eq!(manage(f, 0, BAY_ZONE_OFFLINE | BAY_ZONE_ALL), 0);
        assert_eq!(f.seen().len(), 2);
    });
}

#[test]
fn a_report_has_room_for_its_zones_in_aligned_memory() {
    once("report", zoned, |f| {
        let mut backing = [0; 5 * 32];
        let memory = &mut backing[..];
        let skew = memory.as_ptr().align_offset(8);
        let memory = &mut memory[skew..skew + 4 * 32];
        assert_eq!(report(f, 8, 5, memory), -libc::EINVAL, "no room");
        assert_eq!(report(f, 8, 0, memory), -libc::EINVAL, "no zones");
        assert_eq!(report(f, 9, 1, memory), -libc::EINVAL, "not the start of a zone");
        assert_eq!(report(f, 8, 1, &mut memory[4..36]), -libc::EINVAL, "not aligned");
        assert_eq!(report(f, 8, 1, &mut memory[..40]), -libc::EINVAL, "not whole records");
        assert_eq!(f.seen(), []);
        assert_eq!(report(f, 8, 4, memory), 0);
        assert_eq!(f.seen().len(), 1);
    });
}

#[test]
fn an_append_is_refused_when_it_is_too_long_or_does_not_name_the_start_of_a_zone() {
    once("append", zoned, |f| {
        let mut data = pattern(5 * BLOCK);
        let status = |lba, len: usize, data: &mut [u8]| {
            f.io(BAY_OP_ZONE_APPEND, lba, &list(&mut data[..len * BLOCK])).get().unwrap().0
        };
        assert_eq!(status(8, 5, &mut data), -libc::EINVAL);
        assert_eq!(status(9, 1, &mut data), -libc::EINVAL);
        assert_eq!(f.seen(), []);
        assert_eq!(status(8, 4, &mut data), 0);
        assert_eq!(f.disk.data.borrow()[11 * BLOCK..15 * BLOCK], pattern(4 * BLOCK)[..]);
    });
}

#[test]
fn an_append_from_unaligned_memory_is_copied_whole_and_returns_its_block() {
    let limits = |reg: &mut bay_bdev_reg| {
        zoned(reg);
        reg.align = 512;
        reg.max_segments = 1;
        reg.optimal_boundary = 2; // does not split an append
    };
    once("append bounce", limits, |f| {
        let mut backing = vec![0; 6 * BLOCK];
        let skew = backing.as_ptr().align_offset(512) + 3;
        let memory = &mut backing[skew..skew + 4 * BLOCK];
        memory.copy_from_slice(&pattern(4 * BLOCK));
        let (left, right) = memory.split_at_mut(700);
        let two = [list(left)[0], list(right)[0]];
        let outcome = f.io(BAY_OP_ZONE_APPEND, 8, &two);
        assert_eq!(outcome.get(), Some((0, 8 + APPENDED_AT)));
        let seen: Vec<_> = f.seen().iter().map(|io| (io.op, io.nblocks, io.segments)).collect();
        assert_eq!(seen, [(BAY_OP_ZONE_APPEND, 4, 1)]);
        assert_eq!(f.disk.data.borrow()[11 * BLOCK..15 * BLOCK], pattern(4 * BLOCK)[..]);
    });
}

#[test]
fn an_append_with_fua_is_followed_by_a_flush_and_returns_its_block() {
    let cached = |reg: &mut bay_bdev_reg| {
        zoned(reg);
        reg.flags = BAY_BDEV_WRITE_CACHE;
    };
    once("append fua", cached, |f| {
        let mut data = pattern(BLOCK);
        let list = list(&mut data);
        let outcome = f.submit(|io| {
            (io.op, io.flags, io.lba, io.nblocks) = (BAY_OP_ZONE_APPEND, BAY_IO_FUA, 8, 1);
            (io.iov, io.iovcnt) = (list.as_ptr(), 1);
        });
        assert_eq!(outcome.get(), Some((0, 8 + APPENDED_AT)));
        let ops: Vec<_> = f.seen().iter().map(|io| io.op).collect();
        assert_eq!(ops, [BAY_OP_ZONE_APPEND, BAY_OP_FLUSH]);
    });
}

#[test]
fn the_parts_of_a_write_to_a_zoned_bdev_go_one_after_another() {
    let limits = |reg: &mut bay_bdev_reg| {
        zoned(reg);
        reg.max_io_blocks = 2;
    };
    once("in order", limits, |f| {
        f.disk.hold.set(true);
        let mut data = pattern(6 * BLOCK);
        let list = list(&mut data);
        let write = f.io(BAY_OP_WRITE, 8, &list);
        for begun in [8, 10, 12] {
            assert_eq!(f.seen().iter().map(|io| io.lba).collect::<Vec<_>>(), [begun]);
            assert_eq!(write.get(), None);
            f.complete_kept(0);
        }
        assert_eq!(write.get(), Some((0, 0)));
        assert_eq!(f.disk.data.borrow()[8 * BLOCK..14 * BLOCK], pattern(6 * BLOCK)[..]);

        let write = f.io(BAY_OP_WRITE, 8, &list);
        f.complete_kept(-libc::EIO);
        assert_eq!(write.get().unwrap().0, -libc::EIO, "nothing follows a part that failed");
        let read = f.io(BAY_OP_READ, 8, &list);
        assert_eq!(f.disk.kept.borrow().len(), 3, "reads need no order");
        f.complete_kept(0);
        assert_eq!(read.get(), Some((0, 0)));
    });
}

#[test]
fn a_zoned_bdev_is_resized_by_whole_zones() {
    once("resize", zoned, |f| {
        assert_eq!(crate::abi::resize(f.id, 68), -libc::EINVAL);
        assert_eq!(crate::abi::resize(f.id, 72), 0);
    });
}

/// Length of a `bay_bdev_info` of a plugin that was built before zones.
const OLD_INFO_LEN: u32 = std::mem::offset_of!(bay_bdev_info, zone_size) as u32;

#[test]
fn a_plugin_that_knows_no_zones_does_not_take_a_zoned_bdev_for_an_ordinary_disk() {
    once("old client", zoned, |f| {
        let info = crate::abi::info(f.desc, size_of_table::<bay_bdev_info>());
        assert_eq!(info.unwrap().zone_size, 8);
        assert_eq!(crate::abi::info(f.desc, OLD_INFO_LEN).err(), Some(-libc::ENOTSUP));
    });
    let plain: fn(&mut bay_bdev_reg) = |_| {};
    once("plain disk", plain, |f| {
        let info = crate::abi::info(f.desc, OLD_INFO_LEN).unwrap();
        assert_eq!(info.block_size as usize, BLOCK);
    });
}
