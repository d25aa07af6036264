//! Data transfer: in the capsule and by R2T, of every size, with and without digests.

use crate::raw::{
    BOTH_DIGESTS, NO_DIGESTS, PATIENCE, Raw, connect_data, icreq, piece_of, read, write,
};
use crate::target::{BLOCK, BLOCK_LEN, BLOCKS, NQN, Target, pattern};
use drivebay_nvme_driver::spec::fabrics::Connect;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::spec::{Command, Status};
use drivebay_nvme_driver::tcp::{Alignment, Digests, H2cData, IcReq};
use drivebay_nvme_driver::{Options, RawConnection};
use serde_json::json;

const ALL_DIGESTS: [Digests; 4] = [
    NO_DIGESTS,
    Digests { header: true, data: false },
    Digests { header: false, data: true },
    BOTH_DIGESTS,
];

/// Lengths in blocks around the important limits: the capsule (8), a piece of memory, MDTS (256).
const LENGTHS: [usize; 14] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 100, 127, 128, 255, 256];

#[test]
fn writes_of_every_length_are_read_back_with_every_kind_of_digest() {
    let target = Target::start();
    for (round, digests) in ALL_DIGESTS.into_iter().enumerate() {
        let options = Options { digests, ..target.options() };
        let (controller, mut queue, namespace) = target.connect_io_with(options).unwrap();
        assert_eq!(queue.agreed().digests, digests);
        assert_eq!(controller.data().mdts, 5);
        let mut slba = 3;
        for blocks in LENGTHS {
            let data = pattern(slba, round as u64, blocks);
            queue.run(namespace.write(slba, data.clone()).unwrap()).unwrap().ok().unwrap();
            let blocks_asked = u32::try_from(blocks).unwrap();
            let read = queue.run(namespace.read(slba, blocks_asked).unwrap()).unwrap();
            assert!(read.ok().unwrap() == data, "{blocks} blocks, {digests:?}");
            slba += blocks as u64;
        }
        // Writes all of them at once, and checks that no write has changed its neighbors.
        let mut slba = 3;
        let mut reads = Vec::new();
        for blocks in LENGTHS {
            let request = namespace.read(slba, u32::try_from(blocks).unwrap()).unwrap();
            reads.push((slba, blocks, queue.submit(request).unwrap()));
            slba += blocks as u64;
        }
        for (slba, blocks, token) in reads {
            let read = queue.wait(token).unwrap().ok().unwrap();
            assert!(read == pattern(slba, round as u64, blocks), "{blocks} blocks at {slba}");
        }
    }
}

#[test]
fn large_commands_ask_for_their_data_in_several_pieces_at_once() {
    let target = Target::with(&[], json!({"max_io_size": 1 << 20}));
    let controller = target.connect();
    assert_eq!(controller.data().mdts, 8);
    let blocks = 2048;
    let data = pattern(0, 1, usize::from(blocks));
    for (permitted, at_once) in [(0, 1), (1, 2), (3, 4), (100, 4)] {
        let request = IcReq { maxr2t: permitted, ..icreq(BOTH_DIGESTS) };
        let mut raw = Raw::open(target.address, request);
        let qid = u16::try_from(permitted).unwrap() + 1;
        let connect = Connect { qid, sqsize: 127, ..Connect::default() };
        assert!(raw.connect(connect, &connect_data(NQN, controller.cntlid())).status.is_success());
        raw.send(&raw.capsule(write(5, 0, blocks), &[]));
        let mut asked: Vec<_> = (0..at_once).map(|_| raw.r2t()).collect();
        raw.wire.set_timeout(std::time::Duration::from_millis(50));
        assert!(raw.wire.read_pdu().is_err(), "more R2Ts than {at_once} are outstanding");
        raw.wire.set_timeout(PATIENCE);
        let mut come = 0;
        // Answer the last R2T first, because the specification allows any order.
        while let Some(r2t) = asked.pop() {
            raw.send(&raw.answer(&r2t, &data));
            come += r2t.r2tl;
            let outstanding: u32 = asked.iter().map(|r2t| r2t.r2tl).sum();
            if come + outstanding < 1 << 20 {
                asked.push(raw.r2t());
            }
        }
        assert_eq!(raw.completion().status, Status::SUCCESS);
        raw.send(&raw.capsule(read(6, 0, blocks), &[]));
        let (_, bytes) = raw.c2h_data();
        assert!(bytes == data);
        assert_eq!(raw.completion().cid, 6);
        target.call("bdev_get_iostat", json!({}));
    }
}

#[test]
fn an_r2t_is_answered_in_many_small_pieces() {
    let target = Target::start();
    let controller = target.connect();
    for digests in ALL_DIGESTS {
        let request = icreq(digests);
        let mut raw = Raw::open(target.address, request);
        let connect = Connect { qid: 1, sqsize: 127, ..Connect::default() };
        crate::host::eventually("queue 1 is free", || {
            let data = connect_data(NQN, controller.cntlid());
            raw.connect(connect, &data).status.is_success().then_some(())
        });
        let data = pattern(9, 2, 16);
        raw.send(&raw.capsule(write(1, 9, 16), &[]));
        let r2t = raw.r2t();
        let mut pdus = Vec::new();
        let mut from = 0;
        for len in [4, 4, 8, 500, 4096, 12, data.len()] {
            let len = len.min(data.len() - from);
            let [datao, datal] = [from, len].map(|value| u32::try_from(value).unwrap());
            from += len;
            let pdu = H2cData { datao, datal, last: from == data.len(), ..piece_of(&r2t) };
            pdus.extend(raw.h2c(pdu, &data[from - len..from]));
        }
        raw.send(&pdus);
        assert_eq!(raw.completion().status, Status::SUCCESS);
        raw.send(&raw.capsule(read(2, 9, 16), &[]));
        assert!(raw.c2h_data().1 == data, "{digests:?}");
        raw.completion();
    }
}

#[test]
fn data_comes_at_the_alignment_that_the_host_asked_for() {
    let target = Target::start();
    for bits in [0, 1, 15, 31] {
        let options = Options {
            hpda: Alignment::from_bits(bits).unwrap(),
            digests: BOTH_DIGESTS,
            ..target.options()
        };
        let (_controller, mut queue, namespace) = target.connect_io_with(options).unwrap();
        let data = pattern(40, bits.into(), 20);
        queue.run(namespace.write(40, data.clone()).unwrap()).unwrap().ok().unwrap();
        // The initiator ends the connection if the alignment is wrong.
        let read = queue.run(namespace.read(40, 20).unwrap()).unwrap().ok().unwrap();
        assert!(read == data);
    }
}

/// A write of one block whose data pointer is `sgl`.
fn write_with(sgl: SglDescriptor) -> Command {
    write(3, 0, 1).with_sgl1(sgl)
}

#[test]
fn an_sgl_that_disagrees_with_the_command_or_the_capsule_fails_the_command_alone() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
    let block = [7; BLOCK];
    let length = BLOCK_LEN;
    let in_capsule = |offset, length| SglDescriptor::InCapsule { offset, length };
    let too_short = Status::DATA_SGL_LENGTH_INVALID.with_dnr();
    let type_wrong = Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr();
    let read_in_capsule = read(3, 0, 1).with_sgl1(in_capsule(0, length));
    let mut prp = write_with(in_capsule(0, length));
    prp.dw[0] &= !(3 << 14);
    let mut both_ways = Command::new(3).with_nsid(1).with_cid(3);
    both_ways = both_ways.with_sgl1(SglDescriptor::Transport { length });
    for (what, command, data, expected) in [
        (
            "capsule shorter than the SGL",
            write_with(in_capsule(0, length)),
            &block[..256],
            too_short,
        ),
        ("SGL shorter than the blocks", write_with(in_capsule(0, 256)), &block[..], too_short),
        ("SGL longer than the blocks", write_with(in_capsule(0, length)), &[7; 2 * BLOCK][..], {
            // More data in the capsule than the SGL describes is not an error.
            Status::SUCCESS
        }),
        ("offset behind the capsule", write_with(in_capsule(513, length)), &block[..], {
            Status::SGL_OFFSET_INVALID.with_dnr()
        }),
        ("offset beyond 4 GiB", write_with(in_capsule(1 << 40, length)), &block[..], {
            Status::SGL_OFFSET_INVALID.with_dnr()
        }),
        ("length over the end", write_with(in_capsule(4, length)), &block[..], too_short),
        ("length of all", write_with(in_capsule(4, u32::MAX)), &block[..], too_short),
        ("no data where some is told", write_with(in_capsule(0, length)), &[][..], too_short),
        (
            "data and a transport SGL",
            write_with(SglDescriptor::Transport { length }),
            &block[..],
            { too_short },
        ),
        (
            "an address",
            write_with(SglDescriptor::Address { address: 4096, length }),
            &[],
            type_wrong,
        ),
        (
            "a key",
            write_with(SglDescriptor::Keyed { address: 0, length, key: 1, invalidate: false }),
            &[],
            type_wrong,
        ),
        (
            "a segment",
            write_with(SglDescriptor::Other { dwords: [0, 0, 16, 0x20 << 24] }),
            &[],
            type_wrong,
        ),
        ("a read into the capsule", read_in_capsule, &block[..], type_wrong),
        ("PRPs", prp, &block[..], Status::INVALID_FIELD.with_dnr()),
        ("data both ways", both_ways, &[], Status::INVALID_OPCODE.with_dnr()),
        ("read, too short", read(3, 0, 2).with_sgl1(SglDescriptor::Transport { length }), &[], {
            too_short
        }),
        (
            "read, too long",
            read(3, 0, 1).with_sgl1(SglDescriptor::Transport { length: 1024 }),
            &[],
            { too_short },
        ),
        ("longer than MDTS", read(3, 0, 257), &[], too_short),
        ("longer than anything", read(3, 0, u16::MAX), &[], too_short),
    ] {
        raw.send(&raw.capsule(command, data));
        let completion = raw.completion();
        assert_eq!((completion.cid, completion.status), (3, expected), "{what}");
        raw.assert_alive();
    }
}

#[test]
fn a_write_whose_blocks_disagree_with_what_was_asked_for_fails_after_its_data_has_come() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
    let length = 2 * BLOCK_LEN;
    let before = pattern(0, 9, 2);
    let in_capsule = |length| SglDescriptor::InCapsule { offset: 0, length };
    raw.send(&raw.capsule(write(1, 0, 2).with_sgl1(in_capsule(length)), &before));
    assert_eq!(raw.completion().status, Status::SUCCESS);
    for blocks in [1, 3] {
        let command = write(2, 0, blocks).with_sgl1(SglDescriptor::Transport { length });
        raw.send(&raw.capsule(command, &[]));
        let r2t = raw.r2t();
        raw.send(&raw.answer(&r2t, &pattern(0, 10, 2)));
        assert_eq!(raw.completion().status, Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    raw.send(&raw.capsule(read(3, 0, 2), &[]));
    assert!(raw.c2h_data().1 == before, "a command that failed has written");
}

#[test]
fn in_capsule_data_lies_where_the_offset_says() {
    let target = Target::start();
    let controller = target.connect();
    for digests in [NO_DIGESTS, BOTH_DIGESTS] {
        let mut raw = Raw::open(target.address, icreq(digests));
        let connect = Connect { qid: 1, sqsize: 127, ..Connect::default() };
        crate::host::eventually("queue 1 is free", || {
            let data = connect_data(NQN, controller.cntlid());
            raw.connect(connect, &data).status.is_success().then_some(())
        });
        let data = pattern(0, 4, 4);
        let sgl = SglDescriptor::InCapsule { offset: 516, length: BLOCK_LEN };
        raw.send(&raw.capsule(write(1, 77, 1).with_sgl1(sgl), &data));
        assert_eq!(raw.completion().status, Status::SUCCESS);
        raw.send(&raw.capsule(read(2, 77, 1), &[]));
        assert!(raw.c2h_data().1 == data[516..516 + BLOCK]);
    }
}

#[test]
fn commands_outside_of_the_namespace_and_unknown_ones_are_refused() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
    let out_of_range = Status::LBA_OUT_OF_RANGE.with_dnr();
    let no_namespace = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    let fused = {
        let mut command = read(3, 0, 1);
        command.dw[0] |= 1 << 8;
        command
    };
    for (what, command, expected) in [
        ("the last block", read(3, BLOCKS - 1, 1), Status::SUCCESS),
        ("past the end", read(3, BLOCKS, 1), out_of_range),
        ("over the end", read(3, BLOCKS - 1, 2), out_of_range),
        ("far away", read(3, u64::MAX, 1), out_of_range),
        ("wraps round", read(3, u64::MAX - 1, 4), out_of_range),
        ("namespace 0", read(3, 0, 1).with_nsid(0), no_namespace),
        ("namespace 3", read(3, 0, 1).with_nsid(3), no_namespace),
        ("all namespaces", read(3, 0, 1).with_nsid(u32::MAX), no_namespace),
        ("fused", fused, Status::INVALID_FIELD.with_dnr()),
        (
            "no such opcode",
            Command::new(0x80).with_nsid(1).with_cid(3),
            Status::INVALID_OPCODE.with_dnr(),
        ),
    ] {
        raw.send(&raw.capsule(command, &[]));
        if expected == Status::SUCCESS {
            raw.c2h_data();
        }
        assert_eq!(raw.completion().status, expected, "{what}");
    }
}

#[test]
fn reads_and_writes_that_were_sent_in_one_burst_keep_their_data_apart() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    for generation in 0..8 {
        let places = (0..100).map(|i| (i * 40, 1 + usize::try_from(i).unwrap() % 33));
        for (slba, blocks) in places.clone() {
            let data = pattern(slba, generation, blocks);
            queue.submit(namespace.write(slba, data).unwrap()).unwrap();
        }
        while queue.outstanding() > 0 {
            queue.reap().unwrap().ok().unwrap();
        }
        let mut reads = Vec::new();
        for (slba, blocks) in places {
            let request = namespace.read(slba, u32::try_from(blocks).unwrap()).unwrap();
            reads.push((slba, blocks, queue.submit(request).unwrap()));
        }
        for (slba, blocks, token) in reads {
            let read = queue.wait(token).unwrap().ok().unwrap();
            assert!(read == pattern(slba, generation, blocks), "{blocks} blocks at {slba}");
        }
    }
}

#[test]
fn long_bursts_of_equal_writes_keep_their_data_apart_whatever_breaks_them() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    // Blocks and generation of the data in each place of 16 blocks.
    let mut places = vec![None; 64];
    for generation in 0..400 {
        // A write of 8 blocks fits into the capsule. Other lengths differ from what the target
        // predicts.
        for _ in 0..next(100) {
            let place = usize::try_from(next(64)).unwrap();
            let slba = place as u64 * 16;
            let request = match next(40) {
                0 => namespace.read(slba, 8).unwrap(),
                kind => {
                    let blocks = match kind {
                        1 => 5,
                        2 => 7,
                        3 => 16,
                        _ => 8,
                    };
                    // Two writes to a place in one burst may execute in any order.
                    if places[place].is_some_and(|(_, written)| written == generation) {
                        continue;
                    }
                    places[place] = Some((blocks, generation));
                    namespace.write(slba, pattern(slba, generation, blocks)).unwrap()
                }
            };
            queue.submit(request).unwrap();
        }
        while queue.outstanding() > 0 {
            queue.reap().unwrap().ok().unwrap();
        }
        for (place, held) in places.iter().enumerate() {
            let Some((blocks, written)) = *held else { continue };
            let slba = place as u64 * 16;
            let read = namespace.read(slba, u32::try_from(blocks).unwrap()).unwrap();
            let read = queue.run(read).unwrap().ok().unwrap();
            assert!(read == pattern(slba, written, blocks), "{blocks} blocks of burst {written}");
        }
    }
}

#[test]
fn a_handshake_asks_for_what_it_likes_within_the_limits() {
    let target = Target::start();
    let mut wire = RawConnection::connect(target.address, PATIENCE).unwrap();
    let agreed = wire.initialize(IcReq { maxr2t: u32::MAX, ..icreq(BOTH_DIGESTS) }).unwrap();
    assert_eq!((agreed.pfv, agreed.digests, agreed.maxh2cdata), (0, BOTH_DIGESTS, 131_072));
    assert_eq!(agreed.cpda, Alignment::DWORD);
}
