//! A queue pair with targets that keep to the protocol, and with targets that break it.

use super::*;
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme_tcp::{
    C2hData, CapsuleResp, CommonHeader, Digests, Fes, Frame, H2cData, PduType, Placement, R2t,
    digest,
};

const BOTH: Digests = Digests { header: true, data: true };
const NONE: Digests = Digests { header: false, data: false };

/// A request with its own memory.
#[derive(Debug, PartialEq, Eq)]
struct Memory {
    name: u32,
    bytes: Vec<u8>,
}

impl Payload for Memory {
    fn put(&mut self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn look(&self, offset: u32, len: u32, see: &mut dyn FnMut(&[u8])) {
        see(&self.bytes[offset as usize..][..len as usize]);
    }
}

fn qpair(digests: Digests) -> Qpair<Memory> {
    let ic = IcResp { pfv: 0, cpda: Alignment::DWORD, digests, maxh2cdata: 4096 };
    Qpair::new(Agreed { ic, hpda: Alignment::DWORD, depth: 4, in_capsule_len: 4096 })
}

fn memory(name: u32, len: usize) -> Memory {
    Memory { name, bytes: (0..len).map(|i| (i / 5).to_le_bytes()[0]).collect() }
}

fn read(qpair: &mut Qpair<Memory>, name: u32, len: u32) -> u16 {
    let request = Memory { name, bytes: vec![0; len as usize] };
    qpair.submit(&Command::new(nvm::READ), Transfer::In(len), request).unwrap()
}

fn write(qpair: &mut Qpair<Memory>, name: u32, len: u32) -> u16 {
    let request = memory(name, len as usize);
    qpair.submit(&Command::new(nvm::WRITE), Transfer::Out(len), request).unwrap()
}

/// Takes up to `max` bytes of the output.
fn send(qpair: &mut Qpair<Memory>, max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    qpair.output(|segment| {
        match segment {
            Segment::Bytes(run) => bytes.extend_from_slice(run),
            Segment::Data { request, offset, len } => {
                request.look(offset, len, &mut |data| bytes.extend_from_slice(data));
            }
        }
        bytes.len() < max
    });
    bytes.truncate(max);
    qpair.sent(bytes.len());
    bytes
}

/// Feeds bytes in steps of at most `step`, half of them into the inbox only.
fn feed(qpair: &mut Qpair<Memory>, bytes: &[u8], step: usize) -> Result<(), Fault> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(step.min(rest.len()));
        let input = qpair.input();
        let direct = input.direct.map(|(request, offset, len)| (request.name, offset, len));
        let Some((name, offset, len)) = direct else {
            let place = &mut input.inbox[..now.len()];
            place.copy_from_slice(now);
            qpair.received(now.len())?;
            rest = later;
            continue;
        };
        // What a readv would do with the request's memory.
        let (data, behind) = now.split_at((len as usize).min(now.len()));
        input.inbox[..behind.len()].copy_from_slice(behind);
        let slot = qpair.slots.iter_mut().flatten().find(|slot| slot.request.name == name);
        slot.unwrap().request.put(offset, data);
        qpair.received(now.len())?;
        rest = later;
    }
    Ok(())
}

fn pdu(placement: Placement, header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    if placement.header_digest {
        bytes.extend(digest::of(header));
    }
    bytes.resize(bytes.len() + usize::from(placement.pad_len), 0);
    bytes.extend(data);
    if placement.data_digest {
        bytes.extend(digest::of(data));
    }
    bytes
}

fn response(digests: Digests, cid: u16, status: Status) -> Vec<u8> {
    let mut header = [0; 24];
    let capsule = CapsuleResp { cqe: Completion::new(cid, status).encode() };
    let placement = capsule.encode(digests, &mut header);
    pdu(placement, &header, &[])
}

fn data(digests: Digests, cid: u16, datao: u32, bytes: &[u8], success: bool) -> Vec<u8> {
    let datal = u32::try_from(bytes.len()).unwrap();
    let mut header = [0; 24];
    let placement = C2hData { cccid: cid, datao, datal, last: success, success }.encode(
        digests,
        Alignment::DWORD,
        &mut header,
    );
    pdu(placement, &header, bytes)
}

fn r2t(cid: u16, r2to: u32, r2tl: u32) -> Vec<u8> {
    let mut header = [0; 24];
    let placement = R2t { cccid: cid, ttag: 7, r2to, r2tl }.encode(NONE, &mut header);
    pdu(placement, &header, &[])
}

fn refused(result: Result<(), Fault>) -> Fes {
    match result {
        Err(Fault::Protocol(error)) => error.fes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_is_put_together_however_its_bytes_come() {
    for digests in [NONE, BOTH] {
        for step in [1, 7, 24, 25, 1000, 70_000] {
            let mut qpair = qpair(digests);
            let cid = read(&mut qpair, 1, 12_000);
            send(&mut qpair, usize::MAX);
            let expected = memory(1, 12_000);
            let mut bytes = data(digests, cid, 0, &expected.bytes[..5000], false);
            bytes.extend(data(digests, cid, 5000, &expected.bytes[5000..], true));
            feed(&mut qpair, &bytes, step.min(60_000)).unwrap();
            let done = qpair.completed().unwrap();
            assert_eq!((done.received, done.completion.status), (12_000, Status::SUCCESS));
            assert!(done.request == expected, "{digests:?}, steps of {step}");
            assert!(qpair.completed().is_none());
            assert_eq!(qpair.outstanding(), 0);
        }
    }
}

#[test]
fn a_small_write_goes_in_its_capsule_and_a_large_one_as_it_is_asked_for() {
    for digests in [NONE, BOTH] {
        let mut qpair = qpair(digests);
        let small = write(&mut qpair, 1, 4096);
        let bytes = send(&mut qpair, usize::MAX);
        let receiver = Receiver { digests, ..Receiver::new(Role::Controller) };
        let frame = Frame::parse(&CommonHeader::parse(bytes.first_chunk().unwrap()), &receiver);
        let frame = frame.unwrap();
        assert_eq!(frame.data_len, 4096);
        assert!(bytes[frame.data_offset..].starts_with(&memory(1, 4096).bytes));
        feed(&mut qpair, &response(digests, small, Status::SUCCESS), 9).unwrap();
        assert_eq!(qpair.completed().unwrap().request.name, 1);
    }
    let mut qpair = qpair(NONE);
    let large = write(&mut qpair, 2, 10_000);
    assert_eq!(send(&mut qpair, usize::MAX).len(), 72);
    feed(&mut qpair, &r2t(large, 0, 10_000), 24).unwrap();
    let bytes = send(&mut qpair, usize::MAX);
    // Three PDUs, as MAXH2CDATA is 4096.
    assert_eq!(bytes.len(), 10_000 + 3 * 24);
    let expected = memory(2, 10_000).bytes;
    for (index, at) in [0, 24 + 4096, 2 * (24 + 4096)].into_iter().enumerate() {
        let common = CommonHeader::parse(bytes[at..].first_chunk().unwrap());
        let receiver = Receiver { max_h2c_data_len: 4096, ..Receiver::new(Role::Controller) };
        let frame = Frame::parse(&common, &receiver).unwrap();
        assert_eq!(frame.pdu_type, PduType::H2cData);
        let pdu = H2cData::parse(bytes[at..].first_chunk().unwrap(), &frame).unwrap();
        assert_eq!((pdu.ttag, pdu.datao as usize, pdu.last), (7, index * 4096, index == 2));
        assert!(bytes[at + 24..].starts_with(&expected[index * 4096..][..pdu.datal as usize]));
    }
    feed(&mut qpair, &response(NONE, large, Status::SUCCESS), 24).unwrap();
    assert_eq!(qpair.completed().unwrap().request.name, 2);
}

#[test]
fn a_request_is_not_handed_out_while_its_data_is_being_sent() {
    let mut qpair = qpair(NONE);
    let cid = write(&mut qpair, 1, 4096);
    send(&mut qpair, 1000);
    feed(&mut qpair, &response(NONE, cid, Status::INVALID_FIELD), 24).unwrap();
    assert!(qpair.completed().is_none());
    send(&mut qpair, usize::MAX);
    assert_eq!(qpair.completed().unwrap().completion.status, Status::INVALID_FIELD);
}

#[test]
fn data_with_a_wrong_digest_is_an_error_of_its_command_only() {
    let mut qpair = qpair(BOTH);
    let cid = read(&mut qpair, 1, 512);
    send(&mut qpair, usize::MAX);
    let mut bytes = data(BOTH, cid, 0, &[5; 512], true);
    *bytes.last_mut().unwrap() ^= 1;
    feed(&mut qpair, &bytes, 100).unwrap();
    let done = qpair.completed().unwrap();
    assert_eq!(done.completion.status, Status::TRANSIENT_TRANSPORT_ERROR);
    assert!(qpair.has_room());
}

#[test]
fn a_header_with_a_wrong_digest_ends_the_connection_and_the_target_learns_why() {
    let mut qpair = qpair(BOTH);
    let cid = read(&mut qpair, 1, 512);
    send(&mut qpair, usize::MAX);
    let mut bytes = response(BOTH, cid, Status::SUCCESS);
    bytes[24] ^= 1;
    assert_eq!(refused(feed(&mut qpair, &bytes, 100)), Fes::HeaderDigest);
    let told = send(&mut qpair, usize::MAX);
    assert_eq!((told[0], told[8]), (2, 3));
    assert!(!qpair.has_room());
    assert_eq!(qpair.into_outstanding().count(), 1);
}

#[test]
fn answers_to_nothing_and_second_answers_are_refused() {
    for cid in [0, 3, 4, 0xffff] {
        let mut qpair = qpair(NONE);
        let bytes = response(NONE, cid, Status::SUCCESS);
        assert_eq!(refused(feed(&mut qpair, &bytes, 24)), Fes::InvalidHeaderField, "{cid}");
    }
    let mut qpair = qpair(NONE);
    let cid = read(&mut qpair, 1, 512);
    send(&mut qpair, usize::MAX);
    let bytes = response(NONE, cid, Status::SUCCESS).repeat(2);
    assert_eq!(refused(feed(&mut qpair, &bytes, 48)), Fes::InvalidHeaderField);
    // Nothing came, and the owner sees that.
    assert_eq!(qpair.completed().unwrap().received, 0);
}

#[test]
fn a_target_that_answers_without_reading_cannot_make_the_output_grow() {
    let mut qpair = qpair(NONE);
    let cid = read(&mut qpair, 1, 512);
    let bytes = response(NONE, cid, Status::SUCCESS);
    assert_eq!(refused(feed(&mut qpair, &bytes, 24)), Fes::InvalidHeaderField);
    let mut qpair = self::qpair(NONE);
    let cid = write(&mut qpair, 1, 10_000);
    assert_eq!(refused(feed(&mut qpair, &r2t(cid, 0, 4), 24)), Fes::LimitExceeded);
}

#[test]
fn a_second_answer_while_data_is_sent_is_refused() {
    let mut qpair = qpair(NONE);
    let cid = write(&mut qpair, 1, 4096);
    send(&mut qpair, 1000);
    let bytes = response(NONE, cid, Status::SUCCESS).repeat(2);
    assert_eq!(refused(feed(&mut qpair, &bytes, 48)), Fes::InvalidHeaderField);
}

#[test]
fn data_outside_of_what_was_asked_for_is_refused() {
    let tries: [(u32, usize); 4] = [(0, 513), (4, 512), (512, 4), (u32::MAX - 3, 4)];
    for (datao, len) in tries {
        let mut qpair = qpair(NONE);
        let cid = read(&mut qpair, 1, 512);
        let bytes = data(NONE, cid, datao, &vec![1; len], false);
        assert_eq!(refused(feed(&mut qpair, &bytes, 24)), Fes::DataOutOfRange, "{datao} {len}");
    }
    let mut qpair = qpair(NONE);
    let cid = write(&mut qpair, 1, 512);
    let bytes = data(NONE, cid, 0, &[1; 512], true);
    assert_eq!(refused(feed(&mut qpair, &bytes, 24)), Fes::InvalidHeaderField);
}

#[test]
fn no_byte_is_sent_twice_nor_one_that_is_not_the_command_s() {
    let tries: [(u32, u32, Fes); 4] = [
        (0, 10_001, Fes::DataOutOfRange),
        (10_000, 1, Fes::DataOutOfRange),
        (u32::MAX, 2, Fes::DataOutOfRange),
        (0, 0, Fes::InvalidHeaderField),
    ];
    for (r2to, r2tl, fes) in tries {
        let mut qpair = qpair(NONE);
        let cid = write(&mut qpair, 1, 10_000);
        send(&mut qpair, usize::MAX);
        assert_eq!(refused(feed(&mut qpair, &r2t(cid, r2to, r2tl), 24)), fes, "{r2to} {r2tl}");
    }
    let mut qpair = qpair(NONE);
    let cid = write(&mut qpair, 1, 10_000);
    send(&mut qpair, usize::MAX);
    feed(&mut qpair, &r2t(cid, 0, 6000), 24).unwrap();
    // While the first is being sent, and again when that would be more than there is.
    let mut again = r2t(cid, 6000, 10);
    assert_eq!(refused(feed(&mut qpair, &again, 24)), Fes::LimitExceeded);
    let mut qpair = self::qpair(NONE);
    let cid = write(&mut qpair, 1, 10_000);
    send(&mut qpair, usize::MAX);
    feed(&mut qpair, &r2t(cid, 0, 6000), 24).unwrap();
    send(&mut qpair, usize::MAX);
    again = r2t(cid, 0, 6000);
    assert_eq!(refused(feed(&mut qpair, &again, 24)), Fes::LimitExceeded);
    let mut qpair = self::qpair(NONE);
    let cid = read(&mut qpair, 1, 10_000);
    assert_eq!(refused(feed(&mut qpair, &r2t(cid, 0, 512), 24)), Fes::InvalidHeaderField);
}

#[test]
fn a_full_queue_gives_the_request_back() {
    let mut qpair = qpair(NONE);
    for name in 0..4 {
        read(&mut qpair, name, 512);
    }
    let fifth = Memory { name: 5, bytes: vec![0; 512] };
    let command = Command::new(nvm::READ);
    assert_eq!(qpair.submit(&command, Transfer::In(512), fifth).unwrap_err().name, 5);
    let names: Vec<u32> = qpair.into_outstanding().map(|request| request.name).collect();
    assert_eq!(names, [0, 1, 2, 3]);
}

#[test]
fn what_the_target_says_at_the_end_is_kept() {
    let mut qpair = qpair(NONE);
    let mut bytes = [0; 24];
    drivebay_spec_nvme_tcp::TermReq::new(Role::Controller, ProtocolError::field(4))
        .encode(0, &mut bytes);
    let fault = feed(&mut qpair, &bytes, 24).unwrap_err();
    assert_eq!(fault, Fault::Terminated { fes: 1, fei: 4 });
    assert_eq!(qpair.received(0), Err(fault));
}
