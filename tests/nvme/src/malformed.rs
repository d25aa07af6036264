//! Malformed PDUs: the connection ends as the specification says, and no other client notices.
//! NVMe/TCP Transport 1.0, sections 3.3, 3.5 and 3.6.2.4.

use crate::raw::{
    BOTH_DIGESTS, NO_DIGESTS, PATIENCE, Raw, connect_data, icreq, piece_of, read, write,
};
use crate::target::{NQN, Target, pattern};
use crate::witness::Witness;
use drivebay_nvme_driver::spec::Status;
use drivebay_nvme_driver::spec::fabrics::CNTLID_DYNAMIC;
use drivebay_nvme_driver::spec::fabrics::Connect;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::tcp::{
    CommonHeader, Digests, Fes, H2cData, IcReq, ProtocolError, R2t, Role, TermReq,
};
use std::time::{Duration, Instant};

/// The state of the connection when the PDU arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The host has sent nothing.
    New,
    /// Initialized, but not a queue.
    Initialized,
    /// An I/O queue.
    Queue,
    /// An I/O queue with a write of 256 blocks for which the target has sent an R2T.
    Asked,
}

struct Case {
    what: &'static str,
    state: State,
    digests: Digests,
    /// The bytes to send, and the offset of the PDU in error.
    bytes: fn(&Raw, R2t) -> (Vec<u8>, usize),
    expected: ProtocolError,
}

const HEADER: Digests = Digests { header: true, data: false };
const DATA: Digests = Digests { header: false, data: true };

const fn case(
    what: &'static str,
    state: State,
    digests: Digests,
    expected: ProtocolError,
    bytes: fn(&Raw, R2t) -> (Vec<u8>, usize),
) -> Case {
    Case { what, state, digests, bytes, expected }
}

const fn field(offset: u32) -> ProtocolError {
    ProtocolError::field(offset)
}

const fn of(fes: Fes) -> ProtocolError {
    ProtocolError::of(fes)
}

fn icreq_bytes() -> Vec<u8> {
    let mut bytes = [0; IcReq::LEN];
    icreq(NO_DIGESTS).encode(&mut bytes);
    bytes.to_vec()
}

/// The PDU with the byte at `at` replaced.
fn with(mut pdu: Vec<u8>, at: usize, byte: u8) -> (Vec<u8>, usize) {
    pdu[at] = byte;
    (pdu, 0)
}

fn with_plen(mut pdu: Vec<u8>, plen: u32) -> (Vec<u8>, usize) {
    pdu[4..8].copy_from_slice(&plen.to_le_bytes());
    (pdu, 0)
}

/// A header of this type and length with the zeroes that its PLEN promises, at most 4 KiB.
fn bare(pdu_type: u8, hlen: u8, plen: u32) -> (Vec<u8>, usize) {
    let header = CommonHeader { pdu_type, flags: 0, hlen, pdo: 0, plen };
    let mut pdu = header.encode().to_vec();
    pdu.resize(usize::try_from(plen).unwrap().clamp(8, 4096), 0);
    (pdu, 0)
}

fn in_capsule_write(raw: &Raw, len: u32) -> Vec<u8> {
    let sgl = SglDescriptor::InCapsule { offset: 0, length: len };
    let data = vec![1; usize::try_from(len).unwrap()];
    raw.capsule(write(1, 0, 8).with_sgl1(sgl), &data)
}

fn piece(raw: &Raw, r2t: R2t, change: fn(&mut H2cData)) -> Vec<u8> {
    let mut pdu = H2cData { datal: 512, last: false, ..piece_of(&r2t) };
    change(&mut pdu);
    raw.h2c(pdu, &vec![0; usize::try_from(pdu.datal).unwrap()])
}

/// An R2T that the target has not sent.
const NO_R2T: R2t = R2t { cccid: 1, ttag: 0, r2to: 0, r2tl: 131_072 };

#[rustfmt::skip]
const CASES: &[Case] = &[
    // The handshake.
    case("a capsule first", State::New, NO_DIGESTS, of(Fes::SequenceError), |raw, _| (raw.capsule(read(1, 0, 1), &[]), 0)),
    case("data first", State::New, NO_DIGESTS, of(Fes::SequenceError), |raw, r2t| (piece(raw, r2t, |_| ()), 0)),
    case("type 8", State::New, NO_DIGESTS, field(0), |_, _| bare(8, 24, 24)),
    case("type 255", State::New, NO_DIGESTS, field(0), |_, _| bare(255, 128, 128)),
    case("another protocol", State::New, NO_DIGESTS, field(0), |_, _| (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0)),
    case("ICResp", State::New, NO_DIGESTS, field(0), |_, _| bare(1, 128, 128)),
    case("ICReq: HLEN", State::New, NO_DIGESTS, field(2), |_, _| with(icreq_bytes(), 2, 127)),
    case("ICReq: FLAGS", State::New, NO_DIGESTS, field(1), |_, _| with(icreq_bytes(), 1, 1)),
    case("ICReq: PLEN", State::New, NO_DIGESTS, field(4), |_, _| with_plen(icreq_bytes(), 132)),
    case("ICReq: PLEN of 4 GiB", State::New, NO_DIGESTS, field(4), |_, _| with_plen(icreq_bytes(), u32::MAX)),
    case("ICReq: PFV", State::New, NO_DIGESTS, ProtocolError::unsupported(8), |_, _| with(icreq_bytes(), 8, 1)),
    case("ICReq: HPDA", State::New, NO_DIGESTS, field(10), |_, _| with(icreq_bytes(), 10, 32)),
    // Initialized.
    case("a second ICReq", State::Initialized, NO_DIGESTS, of(Fes::SequenceError), |_, _| (icreq_bytes(), 0)),
    case("data for nobody before Connect", State::Initialized, NO_DIGESTS, field(10), |raw, r2t| (piece(raw, r2t, |_| ()), 0)),
    // A queue.
    case("ICReq on a queue", State::Queue, NO_DIGESTS, of(Fes::SequenceError), |_, _| (icreq_bytes(), 0)),
    case("CapsuleResp", State::Queue, NO_DIGESTS, field(0), |_, _| bare(5, 24, 24)),
    case("C2HData", State::Queue, NO_DIGESTS, field(0), |_, _| bare(7, 24, 32)),
    case("R2T", State::Queue, NO_DIGESTS, field(0), |_, _| bare(9, 24, 24)),
    case("C2HTermReq", State::Queue, NO_DIGESTS, field(0), |_, _| bare(3, 24, 24)),
    case("type 10", State::Queue, NO_DIGESTS, field(0), |_, _| bare(10, 24, 24)),
    case("H2CTermReq too long", State::Queue, NO_DIGESTS, field(4), |_, _| bare(2, 24, 153)),
    case("H2CTermReq too short", State::Queue, NO_DIGESTS, field(4), |_, _| bare(2, 24, 23)),
    case("capsule: HLEN", State::Queue, NO_DIGESTS, field(2), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 2, 24)),
    case("capsule: HLEN 0", State::Queue, NO_DIGESTS, field(2), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 2, 0)),
    case("capsule: PLEN below its header", State::Queue, NO_DIGESTS, field(4), |raw, _| with_plen(raw.capsule(read(1, 0, 1), &[]), 71)),
    case("capsule: PLEN 0", State::Queue, NO_DIGESTS, field(4), |raw, _| with_plen(raw.capsule(read(1, 0, 1), &[]), 0)),
    case("capsule: a digest nobody agreed on", State::Queue, NO_DIGESTS, field(1), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 1, 1)),
    case("capsule: a data digest nobody agreed on", State::Queue, NO_DIGESTS, field(1), |raw, _| with(in_capsule_write(raw, 512), 1, 2)),
    case("capsule: PDO in the header", State::Queue, NO_DIGESTS, field(3), |raw, _| with(in_capsule_write(raw, 512), 3, 68)),
    case("capsule: PDO unaligned", State::Queue, NO_DIGESTS, field(3), |raw, _| with(in_capsule_write(raw, 512), 3, 73)),
    case("capsule: PDO behind the end", State::Queue, NO_DIGESTS, field(3), |raw, _| with(in_capsule_write(raw, 4), 3, 76)),
    case("capsule: more data than IOCCSZ", State::Queue, NO_DIGESTS, field(4), |raw, _| (in_capsule_write(raw, 4100), 0)),
    case("capsule: PLEN of 4 GiB", State::Queue, NO_DIGESTS, field(4), |raw, _| with_plen(in_capsule_write(raw, 512), u32::MAX)),
    case("the second of two", State::Queue, NO_DIGESTS, field(2), |raw, _| {
        let good = raw.capsule(read(1, 0, 1), &[]);
        let (bad, _) = with(raw.capsule(read(2, 0, 1), &[]), 2, 24);
        let at = good.len();
        ([good, bad].concat(), at)
    }),
    case("data for nobody", State::Queue, NO_DIGESTS, field(10), |raw, r2t| (piece(raw, r2t, |_| ()), 0)),
    case("data for a tag that cannot be", State::Queue, NO_DIGESTS, field(10), |raw, r2t| (piece(raw, r2t, |pdu| pdu.ttag = 0xffff), 0)),
    case("H2CData without data", State::Queue, NO_DIGESTS, field(4), |_, _| bare(6, 24, 24)),
    case("H2CData: DATAL is not its length", State::Queue, NO_DIGESTS, field(16), |raw, r2t| with(piece(raw, r2t, |_| ()), 16, 4)),
    case("H2CData longer than MAXH2CDATA", State::Queue, NO_DIGESTS, of(Fes::LimitExceeded), |raw, r2t| (piece(raw, r2t, |pdu| pdu.datal = 131_076), 0)),
    // Digests.
    case("capsule: header digest", State::Queue, HEADER, of(Fes::HeaderDigest), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 75, 0xee)),
    case("capsule: its header under the digest", State::Queue, HEADER, of(Fes::HeaderDigest), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 60, 0xee)),
    case("capsule: no header digest", State::Queue, HEADER, field(1), |raw, _| with(raw.capsule(read(1, 0, 1), &[]), 1, 0)),
    case("capsule: no data digest", State::Queue, DATA, field(1), |raw, _| with(in_capsule_write(raw, 512), 1, 0)),
    case("H2CData: header digest", State::Asked, BOTH_DIGESTS, of(Fes::HeaderDigest), |raw, r2t| with(piece(raw, r2t, |_| ()), 24, 0xee)),
    // The data of an R2T.
    case("another tag", State::Asked, NO_DIGESTS, field(10), |raw, r2t| (piece(raw, r2t, |pdu| pdu.ttag ^= 1), 0)),
    case("a tag of another command", State::Asked, NO_DIGESTS, field(10), |raw, r2t| (piece(raw, r2t, |pdu| pdu.ttag ^= 0x40), 0)),
    case("another command", State::Asked, NO_DIGESTS, field(8), |raw, r2t| (piece(raw, r2t, |pdu| pdu.cccid ^= 1), 0)),
    case("not the next data", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| (piece(raw, r2t, |pdu| pdu.datao = 512), 0)),
    case("data behind the end", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| (piece(raw, r2t, |pdu| pdu.datao = 131_072), 0)),
    case("an offset that wraps round", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| (piece(raw, r2t, |pdu| pdu.datao = u32::MAX - 3), 0)),
    case("the same data twice", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| {
        let once = piece(raw, r2t, |_| ());
        let at = once.len();
        ([once.clone(), once].concat(), at)
    }),
    case("a gap between pieces", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| {
        let once = piece(raw, r2t, |_| ());
        let at = once.len();
        ([once, piece(raw, r2t, |pdu| pdu.datao = 1024)].concat(), at)
    }),
    case("more data than asked for", State::Asked, NO_DIGESTS, of(Fes::DataOutOfRange), |raw, r2t| {
        let once = piece(raw, r2t, |_| ());
        let at = once.len();
        ([once, piece(raw, r2t, |pdu| (pdu.datao, pdu.datal) = (512, 131_072))].concat(), at)
    }),
    case("said to be the last too early", State::Asked, NO_DIGESTS, field(1), |raw, r2t| (piece(raw, r2t, |pdu| pdu.last = true), 0)),
    case("not said to be the last", State::Asked, NO_DIGESTS, field(1), |raw, r2t| (piece(raw, r2t, |pdu| pdu.datal = 131_072), 0)),
    case("ICReq while data is awaited", State::Asked, NO_DIGESTS, of(Fes::SequenceError), |_, _| (icreq_bytes(), 0)),
    case("a bad type while data is awaited", State::Asked, BOTH_DIGESTS, field(0), |_, _| bare(11, 24, 24)),
];

/// Brings a connection into the case's state, sends the PDU and checks how the connection ends.
fn suffer(target: &Target, case: &Case) {
    let asked = icreq(case.digests);
    // Keep the controller until the end, because its queue cannot outlive it.
    let mut controller = None;
    let mut raw = match case.state {
        State::New => Raw::silent(target.address),
        State::Initialized => Raw::open(target.address, asked),
        State::Queue | State::Asked => {
            let cntlid = controller.insert(target.connect()).cntlid();
            Raw::io_queue(target.address, cntlid, asked)
        }
    };
    let mut r2t = NO_R2T;
    if case.state == State::Asked {
        raw.send(&raw.capsule(write(1, 0, 256), &[]));
        r2t = raw.r2t();
    }
    let (bytes, at) = (case.bytes)(&raw, r2t);
    raw.send(&bytes);
    let (fes, fei, echo) = raw.terminated();
    let ProtocolError { fes: expected, fei: expected_fei } = case.expected;
    assert_eq!((fes, fei), (expected.bits(), expected_fei), "{}", case.what);
    assert!(bytes[at..].starts_with(&echo), "{}: {echo:02x?}", case.what);
    assert!((8..=128).contains(&echo.len()), "{}", case.what);
    drop(raw);
    if let Some(mut controller) = controller {
        controller.keep_alive().unwrap();
        controller.shutdown().unwrap();
    }
}

#[test]
fn each_is_reported_by_its_status_and_field_and_leaves_nothing_behind() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    let round = || CASES.iter().for_each(|case| suffer(&target, case));
    (0..2).for_each(|_| round());
    let before = target.settled_footprint();
    let rounds = crate::times(6, 200);
    (0..rounds).for_each(|_| round());
    target.assert_footprint(&before, rounds);
    witness.finish(Duration::from_secs(5));
}

#[test]
fn a_data_digest_that_does_not_match_fails_the_command_alone() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(BOTH_DIGESTS));
    let before = pattern(0, 1, 8);
    let in_capsule = |cid| {
        let sgl = SglDescriptor::InCapsule { offset: 0, length: 4096 };
        write(cid, 0, 8).with_sgl1(sgl)
    };
    raw.send(&raw.capsule(in_capsule(1), &before));
    assert_eq!(raw.completion().status, Status::SUCCESS);
    // The last byte of the PDU belongs to the data digest.
    let mut broken = raw.capsule(in_capsule(2), &pattern(0, 2, 8));
    *broken.last_mut().unwrap() ^= 1;
    raw.send(&broken);
    assert_eq!(raw.completion().status, Status::TRANSIENT_TRANSPORT_ERROR);

    raw.send(&raw.capsule(write(3, 0, 8), &[]));
    let r2t = raw.r2t();
    let mut broken = raw.answer(&r2t, &pattern(0, 3, 8));
    *broken.last_mut().unwrap() ^= 1;
    raw.send(&broken);
    let completion = raw.completion();
    assert_eq!((completion.cid, completion.status), (3, Status::TRANSIENT_TRANSPORT_ERROR));

    raw.send(&raw.capsule(read(4, 0, 8), &[]));
    assert!(raw.c2h_data().1 == before, "data with a wrong digest was written");
    raw.completion();
    raw.assert_alive();
}

#[test]
fn a_host_that_ends_the_connection_is_not_answered() {
    let target = Target::start();
    let controller = target.connect();
    for state in [State::New, State::Initialized, State::Queue] {
        let mut raw = match state {
            State::New => Raw::silent(target.address),
            State::Initialized => Raw::open(target.address, icreq(NO_DIGESTS)),
            _ => Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS)),
        };
        let mut bytes = [0; TermReq::LEN];
        TermReq::new(Role::Host, of(Fes::SequenceError)).encode(0, &mut bytes);
        raw.send(&bytes);
        let begun = Instant::now();
        assert!(raw.wire.read_pdu().is_err(), "{state:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{state:?}: the target did not close it");
    }
}

#[test]
fn a_peer_that_does_not_close_after_an_error_is_closed_and_nothing_it_sends_counts() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
    raw.send(&bare(10, 24, 24).0);
    raw.terminated();
    let sgl = SglDescriptor::InCapsule { offset: 0, length: 512 };
    raw.send(&raw.capsule(write(1, 0, 1).with_sgl1(sgl), &[0xdd; 512]));
    let begun = Instant::now();
    assert!(raw.wire.wait_closed().unwrap());
    assert!(begun.elapsed() < PATIENCE);
    let (_controller, mut queue, namespace) = target.connect_io();
    let block = queue.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    assert_eq!(block, [0; 512]);
}

#[test]
fn a_refused_connect_leaves_no_controller_behind() {
    let target = Target::start();
    for _ in 0..20 {
        let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
        let connect = Connect { sqsize: 0, ..Connect::default() };
        let completion = raw.connect(connect, &connect_data(NQN, CNTLID_DYNAMIC));
        assert!(!completion.status.is_success());
    }
    assert!(target.controllers().is_empty());
}
