//! Tests of the connection with a host in memory: what it sends, and what comes back.

use super::doubles::{
    FLUSH, Host, Keeper, LIMITS, Memo, POOL, READ, WRITE, at, command, ic_req, in_capsule, pattern,
    read, write,
};
use super::inbox::LEN as INBOX;
use super::{AHEAD, BURST, Connection, Inbox, Limits, PLACES, Phase, SLICES};
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Command, Completion, Status};
use drivebay_spec_nvme_tcp::{
    C2hData, CommonHeader, Digests, Fes, Frame, IcResp, PduType, ProtocolError, R2t, Receiver,
    Role, TermReq, digest,
};
use proptest::prelude::*;
use std::io::{IoSlice, IoSliceMut};

const BOTH: Digests = Digests { header: true, data: true };

#[derive(Debug)]
struct Pdu {
    frame: Frame,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Pdu {
    fn completion(&self) -> Completion {
        assert_eq!(self.frame.pdu_type, PduType::CapsuleResp);
        Completion::parse(self.header[8..24].first_chunk().unwrap())
    }
    fn r2t(&self) -> R2t {
        assert_eq!(self.frame.pdu_type, PduType::R2t);
        R2t::parse(self.header.first_chunk().unwrap()).unwrap()
    }
    fn error(&self) -> ProtocolError {
        assert_eq!(self.frame.pdu_type, PduType::C2hTermReq);
        TermReq::parse(self.header.first_chunk().unwrap(), Role::Controller).error().unwrap()
    }
}

struct Wire {
    connection: Connection<Memo>,
    keeper: Keeper,
    inbox: Inbox,
    digests: Digests,
    /// Number of bytes to give to the connection at once.
    chunk: usize,
}

fn no_places<'a>() -> [IoSliceMut<'a>; PLACES] {
    std::array::from_fn(|_| IoSliceMut::new(&mut []))
}

impl Wire {
    fn new(limits: Limits) -> Self {
        Self {
            connection: Connection::new(limits),
            keeper: Keeper::new(),
            inbox: Inbox::new(),
            digests: Digests::default(),
            chunk: usize::MAX,
        }
    }

    fn open_with(limits: Limits, digests: Digests, maxr2t: u32, hpda: u8) -> Self {
        let mut wire = Self::new(limits);
        wire.send(&ic_req(digests, maxr2t, hpda));
        let answer = wire.take();
        let response = IcResp::parse(answer.first_chunk().unwrap(), digests).unwrap();
        assert_eq!((response.digests, response.maxh2cdata), (digests, limits.h2c_data_len));
        assert_eq!(wire.connection.phase(), Phase::Open);
        wire.digests = digests;
        wire.connection.connected(1, 4, true);
        wire
    }

    fn open() -> Self {
        Self::open_with(LIMITS, Digests::default(), 0, 0)
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.connection.begin_turn(&mut self.inbox);
            let (mut n, mut places) = (0, no_places());
            let filled = self.connection.receive_slices(&mut self.keeper, &mut places);
            for slice in &mut places[..filled] {
                let k = slice.len().min(rest.len() - n).min(self.chunk - n.min(self.chunk));
                slice[..k].copy_from_slice(&rest[n..n + k]);
                n += k;
                if k < slice.len() {
                    break;
                }
            }
            if n > 0 {
                self.connection.received(n, &mut self.keeper);
            }
            self.connection.end_turn(&mut self.inbox);
            if n == 0 {
                return;
            }
            rest = &rest[n..];
            while self.connection.is_paused() {
                self.resume();
            }
        }
    }

    /// The length of each place of the next receive, in bytes.
    fn place_lens(&mut self) -> Vec<usize> {
        self.connection.begin_turn(&mut self.inbox);
        let mut places = no_places();
        let filled = self.connection.receive_slices(&mut self.keeper, &mut places);
        let lens = places[..filled].iter().map(|place| place.len()).collect();
        self.connection.release_unused();
        self.connection.end_turn(&mut self.inbox);
        lens
    }

    fn resume(&mut self) {
        self.connection.begin_turn(&mut self.inbox);
        self.connection.resume(&mut self.keeper);
        self.connection.end_turn(&mut self.inbox);
    }

    /// Takes all output, 1000 bytes at a time.
    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = self.connection.send_slices(&mut slices);
            let bytes: Vec<u8> =
                slices[..n].iter().flat_map(|slice| slice.iter().copied()).collect();
            if bytes.is_empty() {
                return all;
            }
            let n = bytes.len().min(1000);
            all.extend_from_slice(&bytes[..n]);
            self.connection.sent(n);
        }
    }

    fn take_pdus(&mut self) -> Vec<Pdu> {
        let bytes = self.take();
        let mut rest = &bytes[..];
        let receiver = Receiver { digests: self.digests, ..Receiver::new(Role::Host) };
        let mut pdus = Vec::new();
        while let Some(common) = rest.first_chunk() {
            let frame = Frame::parse(&CommonHeader::parse(common), &receiver).unwrap();
            let (pdu, more) = rest.split_at(frame.plen as usize);
            let header = pdu[..frame.header_len].to_vec();
            if frame.header_digest {
                assert_eq!(pdu[frame.header_len..][..4], digest::of(&header));
            }
            let data = pdu[frame.data_offset..][..frame.data_len as usize].to_vec();
            if frame.data_digest {
                assert_eq!(pdu[pdu.len() - 4..], digest::of(&data));
            }
            pdus.push(Pdu { frame, header, data });
            rest = more;
        }
        pdus
    }

    fn take_one(&mut self) -> Pdu {
        let mut pdus = self.take_pdus();
        assert_eq!(pdus.len(), 1, "{pdus:?}");
        pdus.remove(0)
    }

    fn capsule(&self, command: Command, data: &[u8]) -> Vec<u8> {
        Host { digests: self.digests }.capsule(command, data)
    }

    fn h2c(&self, r2t: R2t, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        Host { digests: self.digests }.h2c(r2t, datao, data, last)
    }

    /// The target answers its oldest command.
    fn answer(&mut self, status: Status, sqhd: u16) {
        let request = self.keeper.answered_at(status, sqhd);
        self.connection.complete(request);
    }

    fn terminated(&mut self) -> ProtocolError {
        let error = self.take_pdus().last().unwrap().error();
        assert_eq!(self.connection.phase(), Phase::Terminating);
        self.end();
        error
    }

    /// Drops the connection. Then every command comes back, and all memory is in the pool.
    fn end(&mut self) {
        self.connection.end();
        while !self.keeper.lent.is_empty() {
            self.answer(Status::SUCCESS, 0);
        }
        assert_eq!(self.connection.phase(), Phase::Ended);
        assert_eq!(self.connection.at_target(), 0);
        assert!(!self.connection.has_output());
        assert_eq!(self.keeper.pool.get(), POOL, "memory is back");
    }
}

// Handshake.

#[test]
fn an_icreq_byte_by_byte_is_answered_once_it_is_whole() {
    let mut wire = Wire::new(LIMITS);
    wire.chunk = 1;
    wire.send(&ic_req(BOTH, 0, 0)[..127]);
    assert!(!wire.connection.has_output());
    wire.send(&[0]);
    assert_eq!(wire.take().len(), 128);
    wire.end();
}

#[test]
fn an_unknown_format_version_is_an_unsupported_parameter_at_byte_8() {
    let mut wire = Wire::new(LIMITS);
    let mut request = ic_req(BOTH, 0, 0);
    request[8] = 1;
    wire.send(&request);
    assert_eq!(wire.terminated(), ProtocolError::unsupported(8));
}

#[test]
fn a_command_before_icreq_and_a_second_icreq_are_out_of_sequence() {
    let mut wire = Wire::new(LIMITS);
    wire.send(&wire.capsule(read(1, 512), &[]));
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::SequenceError));

    let mut wire = Wire::open();
    wire.send(&ic_req(Digests::default(), 0, 0));
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::SequenceError));
}

#[test]
fn wrong_fields_of_the_common_header_are_reported_by_their_offset() {
    // A long PLEN means that there is data, but PDO is 0.
    for (byte, value, fei) in
        [(0, 5, 0), (0, 0x0a, 0), (1, 1, 1), (2, 71, 2), (4, 71, 4), (7, 1, 3)]
    {
        let mut wire = Wire::open();
        let mut capsule = wire.capsule(read(1, 512), &[]);
        capsule[byte] = value;
        wire.send(&capsule);
        assert_eq!(wire.terminated(), ProtocolError::field(fei), "byte {byte}");
    }
}

#[test]
fn the_head_of_the_pdu_in_error_follows_the_termination_request() {
    let mut wire = Wire::open();
    let mut capsule = wire.capsule(read(1, 512), &[]);
    capsule[0] = 0x42;
    wire.send(&capsule);
    let pdu = wire.take_one();
    assert_eq!(pdu.error(), ProtocolError::field(0));
    assert_eq!(pdu.data, capsule);
}

#[test]
fn the_hosts_termination_request_ends_the_connection_without_an_answer() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(1, 4096), &[]));
    let mut request = [0; 24];
    TermReq::new(Role::Host, ProtocolError::field(3)).encode(0, &mut request);
    wire.send(&request);
    assert_eq!(wire.connection.phase(), Phase::Ended);
    wire.end();
}

// Commands.

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

// Data by R2T.

#[test]
fn a_write_asks_for_as_much_as_the_host_permits_and_then_for_the_rest() {
    for (maxr2t, at_once) in [(0, 1), (1, 2), (3, 4), (u32::MAX, 4)] {
        let mut wire = Wire::open_with(LIMITS, BOTH, maxr2t, 0);
        let data = pattern(45_000);
        wire.send(&wire.capsule(write(5, 45_000), &[]));
        let mut asked = wire.take_pdus();
        assert_eq!(asked.len(), at_once);
        while !asked.is_empty() {
            let r2t = asked.remove(0).r2t();
            let bytes = &data[r2t.r2to as usize..][..r2t.r2tl as usize];
            let (head, tail) = bytes.split_at(1000);
            wire.send(&wire.h2c(r2t, r2t.r2to, head, false));
            wire.send(&wire.h2c(r2t, r2t.r2to + 1000, tail, true));
            asked.extend(wire.take_pdus());
        }
        assert_eq!(wire.keeper.lent[0].bytes(), data);
        wire.answer(Status::SUCCESS, 1);
        assert_eq!(wire.take_one().completion().cid, 5);
        assert_eq!(wire.keeper.pool.get(), POOL);
        wire.end();
    }
}

#[test]
fn data_that_was_not_requested_is_fatal_and_the_error_says_what_is_wrong_with_it() {
    let out_of_range = ProtocolError::of(Fes::DataOutOfRange);
    type Change = fn(&mut R2t, &mut u32, &mut usize, &mut bool);
    let cases: [(Change, ProtocolError); 8] = [
        (|r2t, _, _, _| r2t.ttag = 0xfff0, ProtocolError::field(10)),
        (|r2t, _, _, _| r2t.ttag += 1, ProtocolError::field(10)),
        (|r2t, _, _, _| r2t.cccid += 1, ProtocolError::field(8)),
        (|_, datao, _, _| *datao = 4, out_of_range),
        (|_, datao, _, _| *datao = u32::MAX - 3, out_of_range),
        (|_, _, len, _| *len = 4100, out_of_range),
        (|_, _, len, _| *len = 8196, ProtocolError::of(Fes::LimitExceeded)),
        (|_, _, _, last| *last = false, ProtocolError::field(1)),
    ];
    for (i, (change, expected)) in cases.into_iter().enumerate() {
        let mut wire = Wire::open();
        wire.send(&wire.capsule(write(5, 4096), &[]));
        let mut r2t = wire.take_one().r2t();
        let (mut datao, mut len, mut last) = (0, 4096, true);
        change(&mut r2t, &mut datao, &mut len, &mut last);
        wire.send(&wire.h2c(r2t, datao, &pattern(len), last));
        assert_eq!(wire.terminated(), expected, "case {i}");
    }
}

#[test]
fn data_for_no_command_at_all_is_fatal() {
    let mut wire = Wire::open();
    let r2t = R2t { cccid: 0, ttag: 0, r2to: 0, r2tl: 4 };
    wire.send(&wire.h2c(r2t, 0, &[0; 4], true));
    assert_eq!(wire.terminated(), ProtocolError::field(10));
}

#[test]
fn data_after_the_last_of_its_r2t_is_fatal() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(write(5, 4096), &[]));
    let r2t = wire.take_one().r2t();
    wire.send(&wire.h2c(r2t, 0, &pattern(4096), true));
    assert_eq!(wire.keeper.lent.len(), 1);
    wire.send(&wire.h2c(r2t, 0, &pattern(4096), true));
    assert_eq!(wire.terminated(), ProtocolError::field(10));
}

// Digests.

#[test]
fn a_wrong_header_digest_is_fatal() {
    let mut wire = Wire::open_with(LIMITS, BOTH, 0, 0);
    let mut capsule = wire.capsule(Command::new(FLUSH).with_cid(1), &[]);
    capsule[72] ^= 1;
    wire.send(&capsule);
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::HeaderDigest));
}

#[test]
fn a_wrong_data_digest_fails_the_command_only() {
    let mut wire = Wire::open_with(LIMITS, BOTH, 0, 0);
    let mut capsule = wire.capsule(in_capsule(1, 0, 512), &pattern(512));
    *capsule.last_mut().unwrap() ^= 1;
    wire.send(&capsule);
    assert_eq!(wire.take_one().completion().status, Status::TRANSIENT_TRANSPORT_ERROR);

    wire.send(&wire.capsule(write(2, 12_000), &[]));
    let r2t = wire.take_one().r2t();
    let mut piece = wire.h2c(r2t, 0, &pattern(8192), true);
    piece[100] ^= 1;
    wire.send(&piece);
    assert_eq!(wire.take_one().completion().status, Status::TRANSIENT_TRANSPORT_ERROR);
    assert!(wire.keeper.lent.is_empty());
    assert_eq!(wire.connection.phase(), Phase::Open);
    wire.end();
}

// Memory and back pressure.

#[test]
fn commands_wait_for_memory_in_their_order() {
    let mut wire = Wire::open();
    wire.keeper.pool.set(1);
    wire.send(&wire.capsule(read(1, 4096), &[]));
    wire.send(&wire.capsule(read(2, 4096), &[]));
    wire.send(&wire.capsule(in_capsule(3, 0, 4096), &pattern(4096)));
    assert_eq!(wire.keeper.lent.len(), 1);
    assert!(wire.connection.is_starving());
    for cid in 1..=3 {
        wire.answer(Status::SUCCESS, 1);
        let last = wire.take_pdus().pop().unwrap();
        assert_eq!(last.completion().cid, cid);
        wire.resume();
    }
    assert!(!wire.connection.is_starving());
    assert_eq!(wire.keeper.pool.get(), 1);
}

#[test]
fn a_peer_that_does_not_read_is_not_listened_to() {
    let mut wire = Wire::open();
    let refused = wire.capsule(write(9, 65537), &[]);
    for _ in 0..100_000 {
        wire.send(&refused);
    }
    assert!(!wire.connection.can_receive());
    assert!(wire.take().len() < 70_000, "what waits is bounded");
    wire.resume();
    assert!(wire.connection.can_receive());
    wire.end();
}

// Ends.

#[test]
fn a_connection_cut_at_any_byte_gives_all_memory_back() {
    let script = |wire: &mut Wire, cut: usize| {
        let mut sent = 0;
        let mut send = |wire: &mut Wire, bytes: Vec<u8>| {
            let n = bytes.len().min(cut - sent);
            wire.send(&bytes[..n]);
            sent += n;
            sent < cut
        };
        send(wire, ic_req(BOTH, 1, 0).to_vec())
            && {
                wire.digests = BOTH;
                wire.take();
                send(wire, wire.capsule(read(1, 5000), &[])) && {
                    send(wire, wire.capsule(in_capsule(2, 0, 100), &pattern(100)))
                }
            }
            && send(wire, wire.capsule(write(3, 9000), &[]))
            && {
                let r2t = wire.take_pdus().remove(0).r2t();
                send(wire, wire.h2c(r2t, 0, &pattern(200), false))
            }
    };
    let mut cut = 0;
    loop {
        cut += 1;
        let mut wire = Wire::new(LIMITS);
        wire.connection.connected(1, 4, true);
        let more = script(&mut wire, cut);
        wire.end();
        if more {
            break;
        }
    }
    assert!(cut > 600, "{cut}");
}

#[test]
fn a_closing_connection_sends_what_was_given_back_and_takes_nothing_more() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(1, 4096), &[]));
    wire.send(&wire.capsule(read(2, 4096), &[]));
    wire.answer(Status::SUCCESS, 1);
    wire.connection.close();
    wire.send(&wire.capsule(read(3, 4096), &[]));
    wire.answer(Status::SUCCESS, 2);
    assert_eq!(wire.take_pdus().len(), 2, "data and response of the first");
    assert_eq!(wire.connection.phase(), Phase::Closing);
    wire.end();
}

#[test]
fn a_terminated_connection_takes_nothing_more_but_keeps_reading() {
    let mut wire = Wire::open();
    wire.send(&[0xff; 8]);
    for _ in 0..100 {
        wire.send(&[0; 4096]);
    }
    assert!(wire.connection.can_receive());
    assert_eq!(wire.take_pdus().len(), 1);
    wire.end();
}

// Predicted data of capsules.

/// One command of a burst, with its data. `Some` if the capsule has the data.
fn spoken(kind: u8, cid: u16) -> (Command, Vec<u8>, Vec<u8>) {
    let data = |len| (0..len).map(|i| at(i + 7 * usize::from(cid))).collect::<Vec<u8>>();
    match kind {
        0 => (read(cid, 512), Vec::new(), Vec::new()),
        1 => (Command::new(FLUSH).with_cid(cid), Vec::new(), Vec::new()),
        2 => (in_capsule(cid, 0, 512), data(512), data(512)),
        3 => (in_capsule(cid, 0, 2048), data(2048), data(2048)),
        4 => (in_capsule(cid, 96, 4000), data(4096), data(4096)[96..].to_vec()),
        5 => (in_capsule(cid, 0, 4000), data(4096), data(4096)[..4000].to_vec()),
        _ => (in_capsule(cid, 0, 4096), data(4096), data(4096)),
    }
}

#[test]
fn as_many_capsules_as_came_are_foreseen_and_one_in_four_more() {
    const EACH: usize = 72 + 4096;
    let mut wire = Wire::open_with(Limits { depth: 64, ..LIMITS }, Digests::default(), 0, 0);
    let capsules = |wire: &Wire, kinds: &[u8]| -> Vec<u8> {
        kinds
            .iter()
            .flat_map(|kind| {
                let (command, data, _) = spoken(*kind, 1);
                wire.capsule(command, &data)
            })
            .collect()
    };
    let foreseen = |count: usize| {
        let mut lens = [72, 4096].repeat(count);
        lens.push(INBOX - count * EACH);
        lens
    };
    wire.send(&capsules(&wire, &[9; 4]));
    assert_eq!(wire.place_lens(), foreseen(5));
    // A header and some data of the next capsule have arrived.
    wire.send(&capsules(&wire, &[9; 9]));
    wire.send(&capsules(&wire, &[9; 8])[..7 * EACH + 100]);
    let lens = wire.place_lens();
    assert_eq!(lens[..5], [4096 - 28, 72, 4096, 72, 4096]);
    wire.send(&capsules(&wire, &[9; 8])[7 * EACH + 100..]);
    // Half of a header has arrived.
    wire.send(&capsules(&wire, &[9; 5])[..4 * EACH + 30]);
    let mut lens = foreseen(5);
    (lens[0], lens[10]) = (42, lens[10] - 30);
    assert_eq!(wire.place_lens(), lens);
    wire.send(&capsules(&wire, &[9])[30..]);
    assert_eq!(wire.place_lens(), [INBOX], "few came");
    wire.send(&capsules(&wire, &[9, 9, 9, 9, 0]));
    assert_eq!(wire.place_lens(), [INBOX], "it went on with something else");
    // After a wrong prediction, the next receive has none.
    wire.send(&capsules(&wire, &[9, 9, 9, 9]));
    wire.send(&capsules(&wire, &[3, 9, 9, 9, 9]));
    assert_eq!(wire.place_lens(), [INBOX], "it came otherwise");
}

proptest! {
    #[test]
    fn the_target_gets_what_the_host_sent_whether_it_was_foreseen_or_not(
        pool in 1..40_usize,
        bursts in prop::collection::vec(
            (
                prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]), 1..12),
                prop::sample::select(vec![1000, 4096, 4168, 4200, 9000, usize::MAX, usize::MAX, usize::MAX]),
            ),
            1..16,
        ),
    ) {
        let mut wire = Wire::open_with(Limits { depth: 64, ..LIMITS }, Digests::default(), 0, 0);
        wire.keeper.pool.set(pool);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (kinds, chunk) in bursts {
            wire.chunk = chunk;
            let mut burst = Vec::new();
            for kind in kinds {
                let cid = u16::try_from(sent.len()).unwrap();
                let (command, in_capsule, data) = spoken(kind, cid);
                burst.extend_from_slice(&wire.capsule(command, &in_capsule));
                sent.push((cid, data));
            }
            wire.send(&burst);
            while !wire.keeper.lent.is_empty() {
                let request = &wire.keeper.lent[0];
                let data = if request.is_from_host() { request.bytes() } else { Vec::new() };
                got.push((Command::parse(&request.command).cid(), data));
                wire.answer(Status::SUCCESS, 0);
                wire.take();
                wire.resume();
            }
        }
        // A read waits for memory while later commands do not.
        got.sort_by_key(|(cid, _)| *cid);
        prop_assert_eq!(got, sent);
        wire.keeper.pool.set(wire.keeper.pool.get() + POOL - pool);
        wire.end();
    }

    #[test]
    fn arbitrary_bytes_end_in_progress_or_termination(
        digests in 0..4u8,
        chunk in 1..300_usize,
        pdus in prop::collection::vec(
            (prop::sample::select(vec![0u8, 2, 4, 4, 4, 6, 6, 7, 255]), any::<[u8; 64]>(), 0..600_usize, any::<bool>()),
            1..20,
        ),
    ) {
        let digests = Digests { header: digests & 1 != 0, data: digests & 2 != 0 };
        let mut wire = Wire::open_with(LIMITS, digests, 3, 0);
        wire.chunk = chunk;
        for (kind, content, len, broken) in pdus {
            let mut bytes = match kind {
                4 => {
                    let mut command = Command::parse(&content);
                    command.dw[9] = if len % 2 == 0 { 0x5a00_0000 } else { 0x0100_0000 };
                    command.dw[8] &= 0xfff;
                    (command.dw[6], command.dw[7]) = (command.dw[6] & 0xff, 0);
                    wire.capsule(command, &pattern(len))
                }
                6 => {
                    let r2t = R2t { cccid: 0, ttag: u16::from(content[0] & 31), r2to: 0, r2tl: 1 };
                    wire.h2c(r2t, u32::from(content[1]), &pattern(len + 1), content[2] & 1 != 0)
                }
                _ => {
                    let mut bytes = content.to_vec();
                    bytes[0] = kind;
                    bytes
                }
            };
            if broken {
                let at = usize::from(content[3]) % bytes.len();
                bytes[at] ^= content[4];
            }
            wire.send(&bytes);
            if content[5] & 1 != 0 && !wire.keeper.lent.is_empty() {
                wire.answer(Status::SUCCESS, 1);
            }
            wire.take();
            wire.resume();
        }
        prop_assert!(wire.connection.can_receive() || wire.connection.is_stalled() || wire.connection.phase() == Phase::Ended);
        wire.end();
    }
}
