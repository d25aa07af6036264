//! Sessions, PDU by PDU, without sockets.

use super::*;
use drivebay_spec_iscsi::{BHS_LEN, Header};

fn session() -> Session<Vec<u8>> {
    let agreed = Agreed {
        peer_segment_len: 1024,
        first_burst_len: 512,
        max_burst_len: 1 << 20,
        ..Agreed::default()
    };
    Session::new(0, agreed, 5, 5, 1)
}

/// The PDUs that were sent: opcode, header and data.
fn sent(session: &mut Session<Vec<u8>>) -> Vec<(Opcode, [u8; BHS_LEN], Vec<u8>)> {
    let mut inbox = Inbox::default();
    inbox.push(session.output());
    session.sent(session.output().len());
    let framing = Framing { data_len_max: 1 << 24, ..Framing::default() };
    let mut all = Vec::new();
    while let Some(frame) = inbox.front(&framing).unwrap() {
        let data = inbox.data(&frame).to_vec();
        all.push((Header::parse(&frame.bhs).kind().unwrap(), frame.bhs, data));
        inbox.consume(&frame);
    }
    all
}

fn come(session: &mut Session<Vec<u8>>, bhs: [u8; BHS_LEN], data: &[u8]) -> Result<(), Fault> {
    let bytes = [bhs.as_slice(), data].concat();
    let room = session.room();
    room[..bytes.len()].copy_from_slice(&bytes);
    session.received(bytes.len())
}

fn good(itt: u32) -> [u8; BHS_LEN] {
    let response =
        pdu::ScsiResponse { itt, stat_sn: 1, exp_cmd_sn: 6, max_cmd_sn: 9, ..Default::default() };
    response.encode(0)
}

#[test]
fn a_read_takes_its_data_and_ends_with_the_status() {
    let mut session = session();
    session.submit([0x28; CDB_LEN], Transfer::In(8), vec![0; 8]).unwrap();
    assert!(session.submit([0; CDB_LEN], Transfer::None, vec![]).is_err(), "the window is closed");
    let (opcode, bhs, _) = sent(&mut session).remove(0);
    assert_eq!((opcode, ScsiCommand::parse(&bhs).expected_len), (Opcode::ScsiCommand, 8));
    let data = DataIn::default();
    come(&mut session, data.encode(4), b"soon").unwrap();
    let last = DataIn {
        flags: FINAL | DataIn::STATUS,
        offset: 4,
        exp_cmd_sn: 6,
        max_cmd_sn: 8,
        ..DataIn::default()
    };
    come(&mut session, last.encode(4), b"late").unwrap();
    let done = session.done().unwrap();
    assert_eq!(
        (done.request.as_slice(), done.status, done.is_whole),
        (b"soonlate".as_slice(), 0, true)
    );
    assert!(session.submit([0; CDB_LEN], Transfer::None, vec![]).is_ok(), "the window is open");
}

#[test]
fn a_write_sends_its_first_burst_and_then_what_the_target_asks_for() {
    let mut session = session();
    let data: Vec<u8> = (0..=255).flat_map(|byte| [byte; 16]).collect();
    session.submit([0x2a; CDB_LEN], Transfer::Out(4096), data.clone()).unwrap();
    assert_eq!(sent(&mut session)[0].2, data[..512]);
    let r2t = R2t { ttt: 77, offset: 512, len: 3584, ..R2t::default() };
    come(&mut session, r2t.encode(0), &[]).unwrap();
    let pieces = sent(&mut session);
    let lens: Vec<usize> = pieces.iter().map(|(_, _, data)| data.len()).collect();
    assert_eq!(lens, [1024, 1024, 1024, 512]);
    let last = DataOut::parse(&pieces[3].1);
    assert_eq!((last.flags, last.ttt, last.data_sn, last.offset), (FINAL, 77, 3, 3584));
    assert_eq!(pieces.concat_data(), data[512..]);
    come(&mut session, good(0), &[]).unwrap();
    assert!(session.done().unwrap().is_whole);
}

trait Concat {
    fn concat_data(&self) -> Vec<u8>;
}

impl Concat for Vec<(Opcode, [u8; BHS_LEN], Vec<u8>)> {
    fn concat_data(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, _, data)| data.clone()).collect()
    }
}

#[test]
fn a_target_that_reaches_outside_of_a_command_ends_the_session() {
    let outside = [
        (Transfer::In(8), DataIn { offset: 4, ..DataIn::default() }.encode(8), 8),
        (Transfer::In(8), DataIn { offset: 4, ..DataIn::default() }.encode(4), 4), // out of order
        (Transfer::In(8), DataIn { offset: u32::MAX, ..DataIn::default() }.encode(8), 8),
        (Transfer::Out(8), DataIn::default().encode(8), 8),
        (Transfer::In(8), R2t { len: 8, ..R2t::default() }.encode(0), 0),
        (Transfer::Out(8), R2t { len: 0, ..R2t::default() }.encode(0), 0),
        (Transfer::Out(8), R2t { len: 8, ..R2t::default() }.encode(0), 0), // sent already
    ];
    for (transfer, bhs, len) in outside {
        let mut session = session();
        session.submit([0; CDB_LEN], transfer, vec![0; 8]).unwrap();
        assert_eq!(come(&mut session, bhs, &vec![0; len]), Err(Fault::OutOfBounds));
        assert_eq!(session.into_requests().count(), 1);
    }
    let mut session = session();
    assert_eq!(come(&mut session, good(3), &[]), Err(Fault::Unexpected(0x21)));
}

#[test]
fn a_read_that_ends_good_without_all_of_its_data_is_not_whole() {
    let mut session = session();
    session.submit([0; CDB_LEN], Transfer::In(8), vec![0; 8]).unwrap();
    come(&mut session, good(0), &[]).unwrap();
    assert!(!session.done().unwrap().is_whole);
}

#[test]
fn a_write_that_ends_good_before_the_target_asked_for_all_of_its_data_is_not_whole() {
    let mut session = session();
    session.submit([0x2a; CDB_LEN], Transfer::Out(4096), vec![7; 4096]).unwrap();
    come(&mut session, good(0), &[]).unwrap();
    assert!(!session.done().unwrap().is_whole);
}

#[test]
fn pings_are_answered_but_not_without_limit() {
    let mut session = session();
    let ping = pdu::NopIn { itt: NO_TAG, ttt: 5, ..pdu::NopIn::default() };
    come(&mut session, ping.encode(0), &[]).unwrap();
    let (opcode, bhs, _) = sent(&mut session).remove(0);
    assert_eq!((opcode, pdu::NopOut::parse(&bhs).ttt), (Opcode::NopOut, 5));
    for _ in 0..PINGS_MAX {
        come(&mut session, ping.encode(0), &[]).unwrap();
    }
    // An answer that was sent makes room for another one, even if the outbox is never empty.
    session.sent(BHS_LEN);
    come(&mut session, ping.encode(0), &[]).unwrap();
    assert_eq!(come(&mut session, ping.encode(0), &[]), Err(Fault::Flood));
}

#[test]
fn a_requested_logout_waits_for_the_commands_that_are_outstanding_and_lets_no_other_begin() {
    let mut session = session();
    session.submit([0; CDB_LEN], Transfer::None, vec![]).unwrap();
    sent(&mut session);
    let message = pdu::AsyncMessage {
        event: LOGOUT_REQUESTED,
        exp_cmd_sn: 6,
        max_cmd_sn: 9,
        ..pdu::AsyncMessage::default()
    };
    come(&mut session, message.encode(0), &[]).unwrap();
    assert_eq!(sent(&mut session).len(), 0, "a command is outstanding");
    assert!(session.submit([0; CDB_LEN], Transfer::None, vec![]).is_err());
    come(&mut session, good(0), &[]).unwrap();
    let (opcode, bhs, _) = sent(&mut session).remove(0);
    let logout = pdu::Logout::parse(&bhs);
    assert_eq!((opcode, logout.reason), (Opcode::Logout, FINAL), "closes the session");
    assert!(session.is_leaving());
    let response = pdu::LogoutResponse { itt: logout.itt, ..pdu::LogoutResponse::default() };
    let over = come(&mut session, response.encode(0), &[]);
    assert_eq!(over, Err(Fault::Ended(LOGOUT_REQUESTED)));
}

#[test]
fn a_target_that_drops_the_session_ends_it_at_once_and_an_unrequested_logout_response_too() {
    let message = pdu::AsyncMessage { event: 3, ..pdu::AsyncMessage::default() };
    assert_eq!(come(&mut session(), message.encode(0), &[]), Err(Fault::Ended(3)));
    let response = pdu::LogoutResponse::default().encode(0);
    assert_eq!(come(&mut session(), response, &[]), Err(Fault::Unexpected(0x26)));
}

#[test]
fn a_target_that_does_not_read_gets_no_more_commands() {
    let mut session = session();
    let mut count = 0;
    loop {
        if session.submit([0x2a; CDB_LEN], Transfer::Out(1 << 20), vec![7; 1 << 20]).is_err() {
            break;
        }
        let rest = (1 << 20) - 512;
        let r2t = R2t { offset: 512, len: rest, exp_cmd_sn: 6, max_cmd_sn: 99, ..R2t::default() };
        come(&mut session, r2t.encode(0), &[]).unwrap();
        let response = pdu::ScsiResponse { exp_cmd_sn: 6, max_cmd_sn: 99, ..Default::default() };
        come(&mut session, response.encode(0), &[]).unwrap();
        count += 1;
    }
    assert!(count <= 2, "{count} commands");
    sent(&mut session);
    assert!(session.submit([0; CDB_LEN], Transfer::None, vec![]).is_ok(), "it has read");
}
