//! Commands: their answers, data in capsules, and the limits of a queue.

use super::*;

#[test]
fn a_flush_is_executed_and_answered() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(Command::new(FLUSH).with_cid(7), &[]));
    wire.answer(Status::SUCCESS, 1);
    let completion = wire.take_one().completion();
    assert_eq!((completion.cid, completion.sqhd, completion.status), (7, 1, Status::SUCCESS));
    wire.end();
}

#[test]
fn a_read_sends_data_and_response_with_flow_control_and_data_only_without() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(3, 6000), &[]));
    wire.answer(Status::SUCCESS, 1);
    let pdus = wire.take_pdus();
    assert_eq!(pdus.len(), 2);
    assert_eq!(pdus[0].data, pattern(6000));
    let data = C2hData::parse(pdus[0].header.first_chunk().unwrap(), &pdus[0].frame).unwrap();
    assert!(data.last && !data.success);
    assert_eq!(pdus[1].completion().cid, 3);

    wire.connection.connected(1, 4, false);
    wire.send(&wire.capsule(read(4, 512), &[]));
    wire.answer(Status::SUCCESS, 0);
    let pdu = wire.take_one();
    let data = C2hData::parse(pdu.header.first_chunk().unwrap(), &pdu.frame).unwrap();
    assert!(data.last && data.success && data.cccid == 4);
    assert_eq!(wire.keeper.pool.get(), POOL, "memory went back as soon as the data was out");
    wire.end();
}

#[test]
fn a_failed_read_sends_no_data() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(3, 6000), &[]));
    wire.answer(Status::LBA_OUT_OF_RANGE, 1);
    assert_eq!(wire.take_one().completion().status, Status::LBA_OUT_OF_RANGE);
    wire.end();
}

#[test]
fn data_is_aligned_as_the_host_asked_and_covered_by_digests() {
    let mut wire = Wire::open_with(LIMITS, BOTH, 0, 31);
    wire.send(&wire.capsule(read(3, 512), &[]));
    wire.answer(Status::SUCCESS, 1);
    let pdus = wire.take_pdus();
    assert_eq!(pdus[0].frame.data_offset, 128);
    wire.end();
}

#[test]
fn in_capsule_data_arrives_whole_however_it_is_cut() {
    for chunk in [1, 3, 71, 72, 73, 1000, usize::MAX] {
        let mut wire = Wire::open_with(LIMITS, BOTH, 0, 0);
        wire.chunk = chunk;
        wire.send(&wire.capsule(in_capsule(1, 0, 4096), &pattern(4096)));
        assert_eq!(wire.keeper.lent[0].bytes(), pattern(4096), "chunks of {chunk}");
        wire.end();
    }
}

#[test]
fn in_capsule_data_may_begin_at_an_offset_and_be_followed_by_more() {
    let mut wire = Wire::open();
    let data = pattern(1000);
    wire.send(&wire.capsule(in_capsule(1, 100, 512), &data));
    assert_eq!(wire.keeper.lent[0].bytes(), &data[100..612]);
    wire.end();
}

#[test]
fn more_in_capsule_data_than_announced_is_fatal_unless_it_is_an_admin_command() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(in_capsule(1, 0, 4100), &pattern(4100)));
    assert_eq!(wire.terminated(), ProtocolError::field(4));

    let mut wire = Wire::open();
    wire.connection.connected(0, 32, true);
    wire.send(&wire.capsule(in_capsule(1, 0, 8192), &pattern(8192)));
    assert_eq!(wire.keeper.lent.len(), 1);
    wire.end();
}

#[test]
fn an_sgl_that_disagrees_with_the_capsule_fails_the_command_and_nothing_else() {
    let keyed = SglDescriptor::Keyed { address: 0, length: 512, key: 1, invalidate: false };
    for (command, data, status) in [
        (in_capsule(9, 0, 512), 0, Status::DATA_SGL_LENGTH_INVALID),
        (in_capsule(9, 0, 512), 256, Status::DATA_SGL_LENGTH_INVALID),
        (in_capsule(9, 600, 100), 512, Status::SGL_OFFSET_INVALID),
        (in_capsule(9, u64::MAX, 100), 512, Status::SGL_OFFSET_INVALID),
        (write(9, 512), 512, Status::DATA_SGL_LENGTH_INVALID),
        (write(9, 65537), 0, Status::DATA_SGL_LENGTH_INVALID),
        (read(9, u32::MAX), 0, Status::DATA_SGL_LENGTH_INVALID),
        (
            command(READ, 9, SglDescriptor::InCapsule { offset: 0, length: 512 }),
            0,
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
        ),
        (command(WRITE, 9, keyed), 0, Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (command(3, 9, SglDescriptor::Transport { length: 4 }), 0, Status::INVALID_OPCODE),
    ] {
        let mut wire = Wire::open();
        wire.send(&wire.capsule(command, &pattern(data)));
        let completion = wire.take_one().completion();
        assert_eq!((completion.cid, completion.status), (9, status.with_dnr()), "{command:?}");
        assert!(wire.keeper.lent.is_empty());
        wire.send(&wire.capsule(Command::new(FLUSH).with_cid(10), &[]));
        assert_eq!(wire.keeper.lent.len(), 1, "the next command is served");
        wire.end();
    }
}

#[test]
fn a_command_answered_without_the_target_still_moves_the_queue_head() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(Command::new(FLUSH).with_cid(1), &[]));
    wire.answer(Status::SUCCESS, 3);
    assert_eq!(wire.take_one().completion().sqhd, 3);
    wire.send(&wire.capsule(write(2, 65537), &[]));
    assert_eq!(wire.take_one().completion().sqhd, 0, "4 of 4 entries");
    wire.send(&wire.capsule(Command::new(FLUSH).with_cid(3), &[]));
    wire.answer(Status::SUCCESS, 0);
    assert_eq!(wire.take_one().completion().sqhd, 1);
    wire.end();
}

#[test]
fn a_command_beyond_the_queue_depth_waits_for_a_slot() {
    let mut wire = Wire::open();
    let capsules: Vec<u8> =
        (0..6).flat_map(|cid| wire.capsule(Command::new(FLUSH).with_cid(cid), &[])).collect();
    wire.send(&capsules);
    assert_eq!(wire.keeper.lent.len(), 4);
    assert!(wire.connection.is_stalled());
    wire.answer(Status::SUCCESS, 1);
    wire.resume();
    assert_eq!(wire.keeper.lent.len(), 4);
    assert!(wire.connection.is_stalled());
    wire.answer(Status::SUCCESS, 2);
    wire.resume();
    assert!(!wire.connection.is_stalled());
    wire.end();
}

#[test]
fn an_overrun_that_would_wait_for_ever_is_fatal() {
    let mut wire = Wire::open();
    for cid in 0..5 {
        wire.send(&wire.capsule(write(cid, 4096), &[]));
    }
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::SequenceError));
}

#[test]
fn a_burst_is_taken_in_parts_and_no_command_is_lost_or_overtaken() {
    const ALL: u16 = 101;
    const { assert!(ALL as u32 == 3 * BURST + 5) };
    let mut wire = Wire::open_with(Limits { depth: 128, ..LIMITS }, Digests::default(), 0, 0);
    let capsules: Vec<u8> =
        (0..ALL).flat_map(|cid| wire.capsule(Command::new(FLUSH).with_cid(cid), &[])).collect();
    wire.connection.begin_turn(&mut wire.inbox);
    let mut places = no_places();
    assert_eq!(wire.connection.receive_slices(&mut wire.keeper, &mut places), 1);
    places[0][..capsules.len()].copy_from_slice(&capsules);
    wire.connection.received(capsules.len(), &mut wire.keeper);
    wire.connection.end_turn(&mut wire.inbox);
    for part in 1..=3 {
        assert_eq!(wire.keeper.lent.len(), part * BURST as usize);
        assert!(wire.connection.is_paused());
        wire.resume();
    }
    assert!(!wire.connection.is_paused());
    let cids = wire.keeper.lent.iter().map(|memo| Command::parse(&memo.command).cid());
    assert!(cids.eq(0..ALL));
    wire.end();
}

#[test]
fn responses_come_behind_the_data_of_half_of_what_the_host_has_under_way() {
    let mut wire = Wire::open_with(Limits { depth: 16, ..LIMITS }, Digests::default(), 0, 0);
    let kinds = |wire: &mut Wire, cids: std::ops::Range<u16>, len: u32| {
        let burst: Vec<u8> =
            cids.clone().flat_map(|cid| wire.capsule(read(cid, len), &[])).collect();
        wire.send(&burst);
        cids.for_each(|_| wire.answer(Status::SUCCESS, 0));
        let pdus = wire.take_pdus();
        let is_data = |pdu: &Pdu| pdu.frame.pdu_type == PduType::C2hData;
        pdus.iter().map(|pdu| if is_data(pdu) { 'd' } else { 'r' }).collect::<String>()
    };
    assert_eq!(kinds(&mut wire, 0..1, 512), "dr");
    assert_eq!(kinds(&mut wire, 0..8, 512), "ddddrrrrddddrrrr");
    assert_eq!(kinds(&mut wire, 0..3, 512), "dddrrr", "fewer than half: no more are awaited");
    // 128 KiB of data end a burst like any number of responses.
    assert_eq!(kinds(&mut wire, 0..4, 65536), "ddrrddrr");
    wire.connection.host_paused();
    assert_eq!(kinds(&mut wire, 0..4, 512), "ddrrddrr", "it went on with less");
    wire.end();
}

#[test]
fn little_but_the_asked_for_data_is_received_while_data_is_awaited() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(write(5, 8192), &[]));
    let r2t = wire.take_one().r2t();
    let pdu = wire.h2c(r2t, 0, &pattern(8192), true);
    wire.send(&pdu[..24]);
    assert_eq!(wire.place_lens(), [4096, AHEAD], "one piece, and the next header");
    wire.send(&pdu[24..]);
    assert_eq!(wire.place_lens(), [INBOX], "nothing is awaited any more");
    wire.end();
}
