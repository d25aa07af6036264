//! Reads and writes, and what the bus does with them: checks, splitting, bouncing, emulation.

use crate::fixture::*;
use drivebay_plugin_api::*;

#[test]
fn what_is_written_is_read_back_through_lists_of_any_shape() {
    once(
        "shape",
        |_| {},
        |f| {
            let mut data = pattern(4 * BLOCK);
            let (left, right) = data.split_at_mut(700);
            let two = [list(left)[0], list(right)[0]];
            assert_eq!(f.io(BAY_OP_WRITE, 3, &two).get(), Some((0, 0)));
            let mut back = vec![0; 4 * BLOCK];
            assert_eq!(f.io(BAY_OP_READ, 3, &list(&mut back)).get(), Some((0, 0)));
            assert_eq!(back, pattern(4 * BLOCK));
        },
    );
}

#[test]
fn a_request_that_is_wrong_never_reaches_the_module() {
    once(
        "wrong",
        |_| {},
        |f| {
            let mut one = vec![0; BLOCK];
            let status = |result: Outcome| result.get().unwrap().0;
            assert_eq!(status(f.io(BAY_OP_READ, 64, &list(&mut one))), -libc::EINVAL);
            assert_eq!(status(f.io(BAY_OP_READ, u64::MAX, &list(&mut one))), -libc::EINVAL);
            // Ranges that would wrap around to block 0.
            let mut many = vec![0; 4 * BLOCK];
            for lba in [u64::MAX, u64::MAX - 1, u64::MAX - 3] {
                assert_eq!(status(f.io(BAY_OP_READ, lba, &list(&mut many))), -libc::EINVAL);
            }
            assert_eq!(status(f.range(BAY_OP_UNMAP, 0, 0)), -libc::EINVAL);
            assert_eq!(status(f.range(BAY_OP_UNMAP, 60, u64::MAX)), -libc::EINVAL);
            assert_eq!(status(f.range(BAY_OP_READ, 0, 1)), -libc::EINVAL); // no list
            assert_eq!(status(f.range(BAY_OP_COPY, 0, 1)), -libc::ENOTSUP); // not declared
            assert_eq!(status(f.range(999, 0, 1)), -libc::ENOTSUP);
            let strange_flag = f.submit(|io| {
                io.op = BAY_OP_FLUSH;
                io.flags = 1 << 31;
            });
            assert_eq!(status(strange_flag), -libc::ENOTSUP);
            assert_eq!(f.seen(), []);
        },
    );
}

#[test]
fn a_long_list_is_split_at_boundaries_and_limits() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.optimal_boundary = 8;
        reg.max_segments = 2;
    };
    once("split", limits, |f| {
        let mut data = pattern(16 * BLOCK);
        let pieces: Vec<bay_iov> = data.chunks_mut(3 * BLOCK).map(|piece| list(piece)[0]).collect();
        assert_eq!(f.io(BAY_OP_WRITE, 5, &pieces).get(), Some((0, 0)));
        let seen = f.seen();
        assert!(seen.iter().all(|io| io.segments <= 2), "{seen:?}");
        assert!(seen.iter().all(|io| io.lba / 8 == (io.lba + io.nblocks - 1) / 8), "{seen:?}");
        assert_eq!(seen.iter().map(|io| io.nblocks).sum::<u64>(), 16);
        assert_eq!(f.disk.data.borrow()[5 * BLOCK..21 * BLOCK], pattern(16 * BLOCK)[..]);
    });
}

#[test]
fn one_failed_part_fails_the_whole_with_its_status() {
    once(
        "part",
        |reg| reg.max_io_blocks = 1,
        |f| {
            f.disk.fail.set(-libc::EIO);
            let mut data = vec![0; 3 * BLOCK];
            assert_eq!(f.io(BAY_OP_READ, 0, &list(&mut data)).get().unwrap().0, -libc::EIO);
            assert_eq!(f.seen().len(), 3);
        },
    );
}

#[test]
fn memory_that_is_not_aligned_goes_through_a_buffer() {
    once(
        "bounce",
        |reg| reg.align = 512,
        |f| {
            let mut backing = vec![0; 5 * BLOCK];
            let skew = backing.as_ptr().align_offset(512) + 3;
            let memory = &mut backing[skew..skew + 3 * BLOCK];
            memory.copy_from_slice(&pattern(3 * BLOCK));
            assert_eq!(f.io(BAY_OP_WRITE, 9, &list(memory)).get(), Some((0, 0)));
            memory.fill(0);
            assert_eq!(f.io(BAY_OP_READ, 9, &list(memory)).get(), Some((0, 0)));
            assert_eq!(memory, pattern(3 * BLOCK));
            assert_eq!(f.seen().len(), 2);
        },
    );
}

/// Writes 6 blocks with metadata from memory that begins `skew` bytes after a block, and reads them back.
fn write_and_read_with_metadata(f: &Fixture, skew: usize, flags: u32) {
    let mut backing = vec![0; 8 * BLOCK];
    let start = backing.as_ptr().align_offset(512) + skew;
    let memory = &mut backing[start..start + 6 * BLOCK];
    memory.copy_from_slice(&pattern(6 * BLOCK));
    let mut metadata = pattern(6 * METADATA);
    let io = |op, flags, data: &mut [u8], metadata: &mut [u8]| {
        let list = list(data);
        let done = f.submit(|io| {
            (io.op, io.flags, io.lba, io.nblocks) = (op, flags, 2, 6);
            (io.iov, io.iovcnt) = (list.as_ptr(), 1);
            io.md = metadata.as_mut_ptr().cast();
            io.md_len = metadata.len() as u32;
        });
        done.get().unwrap().0
    };
    assert_eq!(io(BAY_OP_WRITE, flags, memory, &mut metadata), 0);
    memory.fill(0);
    metadata.fill(0);
    assert_eq!(io(BAY_OP_READ, 0, memory, &mut metadata), 0);
    assert!(memory == pattern(6 * BLOCK), "the data differ");
    assert_eq!(metadata, pattern(6 * METADATA));
    // Too short, and with a comparison that the bus would have to make.
    assert_eq!(io(BAY_OP_READ, 0, memory, &mut [0; 5 * METADATA]), -libc::EINVAL);
    assert_eq!(io(BAY_OP_COMPARE, 0, memory, &mut [0; 6 * METADATA]), -libc::ENOTSUP);
    assert_eq!(f.range(BAY_OP_WRITE_ZEROES, 3, 2).get(), Some((0, 0)));
    let stored = f.disk.metadata.borrow();
    assert!(stored[3 * METADATA..5 * METADATA].iter().all(|byte| *byte == 0));
    assert_eq!(stored[5 * METADATA..8 * METADATA], pattern(6 * METADATA)[3 * METADATA..]);
}

fn with_metadata(reg: &mut bay_bdev_reg) {
    reg.md_size = METADATA as u32;
}

#[test]
fn separate_metadata_goes_with_the_parts_of_a_split_io() {
    let limits = |reg: &mut bay_bdev_reg| {
        with_metadata(reg);
        reg.max_io_blocks = 4;
    };
    once("md-split", limits, |f| write_and_read_with_metadata(f, 0, 0));
}

#[test]
fn separate_metadata_goes_with_data_through_a_buffer() {
    let limits = |reg: &mut bay_bdev_reg| {
        with_metadata(reg);
        reg.align = 512;
    };
    once("md-bounce", limits, |f| write_and_read_with_metadata(f, 3, 0));
}

#[test]
fn separate_metadata_goes_with_a_write_through() {
    let limits = |reg: &mut bay_bdev_reg| {
        with_metadata(reg);
        reg.flags = BAY_BDEV_WRITE_CACHE;
    };
    once("md-fua", limits, |f| write_and_read_with_metadata(f, 0, BAY_IO_FUA));
}

#[test]
fn zeroes_and_compare_are_emulated_and_compare_says_where() {
    once(
        "emulate",
        |_| {},
        |f| {
            let mut data = pattern(8 * BLOCK);
            f.io(BAY_OP_WRITE, 0, &list(&mut data));
            assert_eq!(f.io(BAY_OP_COMPARE, 0, &list(&mut data)).get(), Some((0, 0)));
            data[3 * BLOCK + 5] ^= 1;
            let wrong = f.io(BAY_OP_COMPARE, 0, &list(&mut data)).get();
            assert_eq!(wrong, Some((BAY_ST_MISCOMPARE, 3 * BLOCK as u64 + 5)));
            assert_eq!(f.range(BAY_OP_WRITE_ZEROES, 2, 3).get(), Some((0, 0)));
            assert!(f.disk.data.borrow()[2 * BLOCK..5 * BLOCK].iter().all(|&byte| byte == 0));
            assert_eq!(f.disk.data.borrow()[5 * BLOCK], pattern(8 * BLOCK)[5 * BLOCK]);
        },
    );
}

#[test]
fn a_write_through_is_a_write_and_a_flush_when_the_module_has_a_cache() {
    once(
        "fua",
        |reg| reg.flags = BAY_BDEV_WRITE_CACHE,
        |f| {
            let mut data = vec![1; BLOCK];
            let list = list(&mut data);
            let done = f.submit(|io| {
                io.op = BAY_OP_WRITE;
                io.flags = BAY_IO_FUA;
                io.nblocks = 1;
                io.iov = list.as_ptr();
                io.iovcnt = 1;
            });
            assert_eq!(done.get(), Some((0, 0)));
            let ops: Vec<_> = f.seen().iter().map(|io| (io.op, io.flags)).collect();
            assert_eq!(ops, [(BAY_OP_WRITE, 0), (BAY_OP_FLUSH, 0)]);
        },
    );
}

#[test]
fn an_alignment_above_the_block_size_and_pieces_finer_than_segments_go_through_a_buffer() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.align = 4096;
        reg.max_segments = 1;
    };
    once("fine", limits, |f| {
        let mut data = pattern(3 * BLOCK + 1);
        let pieces: Vec<bay_iov> = data[1..].chunks_mut(100).map(|piece| list(piece)[0]).collect();
        assert_eq!(f.io(BAY_OP_WRITE, 1, &pieces).get(), Some((0, 0)));
        let mut one = vec![0; 2 * BLOCK];
        assert_eq!(f.io(BAY_OP_READ, 2, &list(&mut one[1..=BLOCK])).get(), Some((0, 0)));
        assert_eq!(one[1..=BLOCK], pattern(3 * BLOCK + 1)[BLOCK + 1..=2 * BLOCK]);
        assert!(f.seen().iter().all(|io| io.segments == 1));
    });
}

#[test]
fn parts_of_writes_keep_the_write_unit_and_limits_without_room_for_it_are_refused() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.write_unit = 4;
        reg.max_io_blocks = 6;
    };
    once("unit", limits, |f| {
        let mut data = pattern(16 * BLOCK);
        assert_eq!(f.io(BAY_OP_WRITE, 8, &list(&mut data)).get(), Some((0, 0)));
        let lens: Vec<u64> = f.seen().iter().map(|io| io.nblocks).collect();
        assert_eq!(lens, [4; 4]);
        let no_room = register("no room", f.disk, |reg| {
            (reg.num_blocks, reg.write_unit, reg.max_io_blocks) = (8, 4, 2);
        });
        assert_eq!(no_room, Err(-libc::EINVAL));
    });
}

#[test]
fn write_through_reaches_no_module_that_did_not_declare_it() {
    let with_fua = |f: &Fixture, op| {
        let mut data = vec![1; BLOCK];
        let list = list(&mut data);
        let done = f.submit(|io| {
            io.op = op;
            io.flags = BAY_IO_FUA;
            io.nblocks = 1;
            (io.iov, io.iovcnt) = (list.as_ptr(), 1);
        });
        (done.get().unwrap().0, f.seen().iter().map(|io| (io.op, io.flags)).collect::<Vec<_>>())
    };
    on_app(
        || {
            (
                Fixture::new("no cache", |_| {}),
                Fixture::new("cache", |r| r.flags = BAY_BDEV_WRITE_CACHE),
            )
        },
        vec![Box::new(move |(plain, cached)| {
            assert_eq!(with_fua(plain, BAY_OP_WRITE), (0, vec![(BAY_OP_WRITE, 0)]));
            let unmapped = (0, vec![(BAY_OP_UNMAP, 0), (BAY_OP_FLUSH, 0)]);
            assert_eq!(with_fua(cached, BAY_OP_UNMAP), unmapped);
            assert_eq!(with_fua(cached, BAY_OP_FLUSH), (-libc::ENOTSUP, vec![]));
            true
        })],
    );
}

/// Declares every op that a mask can hold.
fn all_ops(reg: &mut bay_bdev_reg) {
    reg.ops_mask = u64::MAX;
    reg.zone_size = 8;
}

#[test]
fn an_op_that_the_table_does_not_list_never_reaches_a_module_that_declares_it() {
    once("unlisted", all_ops, |f| {
        let mut data = vec![0; BLOCK];
        for op in (0..=u16::MAX).filter(|op| op_rules(*op).is_none()) {
            assert_eq!(f.io(op, 0, &list(&mut data)).get(), Some((-libc::ENOTSUP, 0)), "op {op}");
        }
        assert_eq!(f.seen(), []);
    });
}

/// Sends every listed op in a valid form. Returns the names of those that completed with `status`
/// at once.
fn listed_ops_that_end_with(chan: u64, status: i32) -> Vec<&'static str> {
    let command = [0_u8; 64];
    let mut data = vec![0; 2 * BLOCK];
    let ended_so = OP_TABLE.iter().filter(|rules| {
        let times = if rules.data == Data::TwiceBlocks { 2 } else { 1 };
        let piece = list(&mut data[..times * BLOCK]);
        let outcome = Fixture::submit_on(chan, |io| {
            io.op = rules.op;
            io.lba = 8;
            io.nblocks = 1;
            io.iov = piece.as_ptr();
            io.iovcnt = u16::from(rules.data != Data::None);
            if rules.extent == Extent::Command {
                io.arg[0] = command.as_ptr() as u64;
                io.arg_len = 64;
            }
        });
        outcome.get().is_some_and(|(ended, _)| ended == status)
    });
    ended_so.map(|rules| rules.name).collect()
}

fn names_of_writing_ops() -> Vec<&'static str> {
    OP_TABLE.iter().filter(|rules| rules.writes).map(|rules| rules.name).collect()
}

#[test]
fn no_op_that_writes_passes_a_read_only_descriptor_or_reaches_a_read_only_bdev() {
    let read_only = |reg: &mut bay_bdev_reg| {
        all_ops(reg);
        reg.flags = BAY_BDEV_READ_ONLY;
    };
    once("read-only", read_only, |f| {
        assert_eq!(listed_ops_that_end_with(f.chan, -libc::EROFS), names_of_writing_ops());
        let wrote = f.seen().into_iter().find(|seen| op_rules(seen.op).unwrap().writes);
        assert_eq!(wrote, None);
    });
    once("reader", all_ops, |f| {
        let chan = f.reader("reader");
        assert_eq!(listed_ops_that_end_with(chan, -libc::EBADF), names_of_writing_ops());
        let wrote = f.seen().into_iter().find(|seen| op_rules(seen.op).unwrap().writes);
        assert_eq!(wrote, None);
    });
}

#[test]
fn every_op_with_blocks_is_refused_past_the_end() {
    once("past", all_ops, |f| {
        for rules in &OP_TABLE {
            let mut data = vec![0; 2 * BLOCK];
            let times = if rules.data == Data::TwiceBlocks { 2 } else { 1 };
            let piece = list(&mut data[..times * BLOCK]);
            let refused = |lba: u64, source: u64| {
                let outcome = f.submit(|io| {
                    io.op = rules.op;
                    io.lba = lba;
                    io.nblocks = 1;
                    io.arg[0] = source;
                    io.iov = piece.as_ptr();
                    io.iovcnt = 1;
                });
                assert_eq!(outcome.get(), Some((-libc::EINVAL, 0)), "{}", rules.name);
            };
            match rules.extent {
                Extent::None => {}
                Extent::Blocks | Extent::Block | Extent::Zone => refused(64, 0),
                Extent::TwoRanges => {
                    refused(64, 0);
                    refused(0, 64);
                    refused(0, 0); // a copy onto itself
                }
                Extent::Command => refused(0, 0), // no command
            }
        }
        assert_eq!(f.seen(), []);
    });
}
