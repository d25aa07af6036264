//! A session in full feature phase, without a socket. It turns commands into bytes to send, and received bytes into finished commands.
//! RFC 7143; one connection, error recovery level 0, so any fault ends the session.

use drivebay_spec_iscsi::inbox::{Broken, Framing, Inbox};
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, DataIn, DataOut, FINAL, R2t, ScsiCommand, UNDERFLOW};
use drivebay_spec_iscsi::{NO_TAG, Opcode, is_before};
use drivebay_spec_scsi::sense::Sense;
use drivebay_spec_scsi::{CDB_LEN, lun};
use std::collections::VecDeque;
use std::fmt;

use crate::outbox::Outbox;

/// Maximum number of commands outstanding.
const TASKS_MAX: usize = 128;
/// Maximum number of answers to the target's pings that wait for the socket.
const PINGS_MAX: usize = 64;
/// Longest data of a PDU that the target may send, in bytes.
pub const SEGMENT_LEN: u32 = 256 << 10;

/// The memory of a command's data.
pub trait Payload {
    /// Stores received data, from `offset` on.
    fn take_data(&mut self, offset: u32, bytes: &[u8]);
    /// Appends the `len` bytes from `offset` on to `out`.
    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>);
}

/// The direction of a command's data, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// From the target to the initiator.
    In(u32),
    /// To the target.
    Out(u32),
}

/// A finished command.
#[derive(Debug)]
pub struct Done<R> {
    /// The submitted request.
    pub request: R,
    /// SCSI status.
    pub status: u8,
    /// Sense data, if there is some.
    pub sense: Option<Sense>,
    /// Whether all of the data was transferred.
    pub is_whole: bool,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes that are not a PDU, or a wrong digest.
    Broken(Broken),
    /// A PDU, with this opcode, that the target must not send now.
    Unexpected(u8),
    /// Data, or a request for data, that is outside of its command or out of order.
    OutOfBounds,
    /// The target sends pings, but does not read the answers.
    Flood,
    /// The target rejected a PDU, for this reason.
    Rejected(u8),
    /// The target ends the session: the event of its message.
    Ended(u8),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(f),
            Self::Unexpected(opcode) => {
                write!(f, "the target sent a PDU {opcode:#04x} that does not fit")
            }
            Self::OutOfBounds => {
                f.write_str("the target moved data outside of a command or out of order")
            }
            Self::Flood => f.write_str("the target sends pings, but does not read the answers"),
            Self::Rejected(reason) => write!(f, "the target rejected a PDU, reason {reason}"),
            Self::Ended(event) => write!(f, "the target ends the session, event {event}"),
        }
    }
}

#[derive(Debug)]
struct Task<R> {
    request: R,
    transfer: Transfer,
    /// Number of bytes received, or queued to be sent. DataPDUInOrder and DataSequenceInOrder are Yes, so the next bytes follow them.
    moved: u32,
}

/// A session.
#[derive(Debug)]
pub struct Session<R> {
    lun: u64,
    agreed: Agreed,
    framing: Framing,
    inbox: Inbox,
    outbox: Outbox,
    /// Answers to pings that wait in the outbox: the end of each one, from [`Outbox::end`].
    pings: VecDeque<u64>,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    /// By initiator task tag.
    tasks: Vec<Option<Task<R>>>,
    free: Vec<u32>,
    done: VecDeque<Done<R>>,
}

impl<R: Payload> Session<R> {
    /// A session after its login. `cmd_sn` is the CmdSN of the first command, `exp_stat_sn` the StatSN of the next response.
    #[must_use]
    pub fn new(unit: u16, agreed: Agreed, cmd_sn: u32, max_cmd_sn: u32, exp_stat_sn: u32) -> Self {
        let framing = Framing {
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
            data_len_max: SEGMENT_LEN,
        };
        Self {
            lun: lun::encode(unit),
            agreed,
            framing,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            pings: VecDeque::new(),
            cmd_sn,
            max_cmd_sn,
            exp_stat_sn,
            tasks: Vec::new(),
            free: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// The same session for another kind of request, while no command is outstanding.
    #[must_use]
    pub fn with_payload<Q: Payload>(self) -> Session<Q> {
        let Self { lun, agreed, framing, inbox, outbox, pings, .. } = self;
        let Self { cmd_sn, max_cmd_sn, exp_stat_sn, .. } = self;
        let (tasks, free, done) = (Vec::new(), Vec::new(), VecDeque::new());
        Session {
            lun,
            agreed,
            framing,
            inbox,
            outbox,
            pings,
            cmd_sn,
            max_cmd_sn,
            exp_stat_sn,
            tasks,
            free,
            done,
        }
    }

    /// Whether headers, and data, have digests.
    #[must_use]
    pub fn digests(&self) -> (bool, bool) {
        (self.agreed.header_digest, self.agreed.data_digest)
    }

    /// The requests of all outstanding commands.
    pub fn requests_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.tasks.iter_mut().flatten().map(|task| &mut task.request)
    }

    /// Queues a command to be sent.
    ///
    /// # Errors
    /// Returns the request when it must wait, because the target accepts no more commands now.
    pub fn submit(&mut self, cdb: [u8; CDB_LEN], transfer: Transfer, request: R) -> Result<(), R> {
        let is_full = self.free.is_empty() && self.tasks.len() == TASKS_MAX;
        if is_full || is_before(self.max_cmd_sn, self.cmd_sn) {
            return Err(request);
        }
        let (flag, expected_len) = match transfer {
            Transfer::None => (0, 0),
            Transfer::In(len) => (ScsiCommand::READ, len),
            Transfer::Out(len) => (ScsiCommand::WRITE, len),
        };
        let immediate = match transfer {
            Transfer::Out(len) if self.agreed.immediate_data => {
                len.min(self.agreed.first_burst_len).min(self.agreed.peer_segment_len)
            }
            _ => 0,
        };
        let itt = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            u32::try_from(self.tasks.len() - 1).unwrap_or(NO_TAG)
        });
        let command = ScsiCommand {
            flags: FINAL | flag,
            lun: self.lun,
            itt,
            expected_len,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        let has_digests = self.digests();
        self.outbox.push(&command.encode(immediate), has_digests, |out| {
            request.give_data(0, immediate, out);
        });
        if let Some(place) = self.tasks.get_mut(index(itt)) {
            *place = Some(Task { request, transfer, moved: immediate });
        }
        Ok(())
    }

    /// Queues a ping. A live target answers it with a PDU.
    pub fn ping(&mut self) {
        let ping = pdu::NopOut {
            flags: FINAL,
            itt: PING_TAG,
            ttt: NO_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..pdu::NopOut::default()
        };
        let has_digests = self.digests();
        self.outbox.push(&ping.encode_immediate(0), has_digests, |_| {});
    }

    /// The bytes to send.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.outbox.rest()
    }

    /// Reports that the first `len` bytes of [`output`](Self::output) were sent.
    pub fn sent(&mut self, len: usize) {
        self.outbox.sent(len);
        let start = self.outbox.start();
        while self.pings.front().is_some_and(|end| *end <= start) {
            self.pings.pop_front();
        }
    }

    /// Returns the room for the next received bytes.
    pub fn room(&mut self) -> &mut [u8] {
        self.inbox.room()
    }

    /// Reports that `len` bytes were written to [`room`](Self::room), and handles the PDUs that are whole now.
    ///
    /// # Errors
    /// The session is over.
    pub fn received(&mut self, len: usize) -> Result<(), Fault> {
        self.inbox.received(len);
        let mut inbox = std::mem::take(&mut self.inbox);
        let worked = self.work(&mut inbox);
        self.inbox = inbox;
        worked
    }

    /// Returns the next finished command.
    pub fn done(&mut self) -> Option<Done<R>> {
        self.done.pop_front()
    }

    /// Ends the session. Returns the requests of all outstanding commands.
    pub fn into_requests(self) -> impl Iterator<Item = R> {
        self.tasks.into_iter().flatten().map(|task| task.request)
    }

    fn work(&mut self, inbox: &mut Inbox) -> Result<(), Fault> {
        while let Some(frame) = inbox.front(&self.framing).map_err(Fault::Broken)? {
            let unexpected = Fault::Unexpected(frame.header.opcode);
            let data = inbox.data(&frame);
            match frame.header.kind().ok_or(unexpected)? {
                Opcode::DataIn => self.data_in(&DataIn::parse(&frame.bhs), data)?,
                Opcode::ScsiResponse => {
                    self.response(&pdu::ScsiResponse::parse(&frame.bhs), data)?
                }
                Opcode::R2t => self.r2t(&R2t::parse(&frame.bhs))?,
                Opcode::NopIn => self.nop_in(&pdu::NopIn::parse(&frame.bhs))?,
                Opcode::AsyncMessage => {
                    let message = pdu::AsyncMessage::parse(&frame.bhs);
                    if message.event != 0 {
                        return Err(Fault::Ended(message.event));
                    }
                    // Sense data of the unit. The unit reports it with its next command too.
                    self.status_came(message.stat_sn, message.exp_cmd_sn, message.max_cmd_sn);
                }
                Opcode::Reject => {
                    return Err(Fault::Rejected(pdu::Reject::parse(&frame.bhs).reason));
                }
                _ => return Err(unexpected),
            }
            inbox.consume(&frame);
        }
        Ok(())
    }

    fn window(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) {
        // MaxCmdSN may be ExpCmdSN less one, but not lie further behind. RFC 7143, section 4.2.2.1.
        let is_sound = !is_before(max_cmd_sn, exp_cmd_sn.wrapping_sub(1));
        if is_sound && is_before(self.max_cmd_sn, max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    fn status_came(&mut self, stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32) {
        self.exp_stat_sn = stat_sn.wrapping_add(1);
        self.window(exp_cmd_sn, max_cmd_sn);
    }

    fn task_mut(&mut self, itt: u32, opcode: Opcode) -> Result<&mut Task<R>, Fault> {
        let unexpected = Fault::Unexpected(opcode as u8);
        self.tasks.get_mut(index(itt)).and_then(Option::as_mut).ok_or(unexpected)
    }

    fn data_in(&mut self, pdu: &DataIn, data: &[u8]) -> Result<(), Fault> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let task = self.task_mut(pdu.itt, Opcode::DataIn)?;
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let Transfer::In(expected) = task.transfer else { return Err(Fault::OutOfBounds) };
        let end = pdu.offset.checked_add(len).filter(|end| *end <= expected);
        let end = end.filter(|_| pdu.offset == task.moved).ok_or(Fault::OutOfBounds)?;
        task.request.take_data(pdu.offset, data);
        task.moved = end;
        if pdu.flags & DataIn::STATUS != 0 {
            self.status_came(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
            let is_whole = pdu.flags & UNDERFLOW == 0;
            self.end(pdu.itt, pdu.status, None, is_whole);
        }
        Ok(())
    }

    fn response(&mut self, pdu: &pdu::ScsiResponse, data: &[u8]) -> Result<(), Fault> {
        self.task_mut(pdu.itt, Opcode::ScsiResponse)?;
        self.status_came(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let sense = match data {
            [high, low, rest @ ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                Sense::parse(rest.get(..len).unwrap_or(rest))
            }
            _ => None,
        };
        let is_executed = pdu.response == 0;
        let status = if is_executed { pdu.status } else { TARGET_FAILURE };
        self.end(pdu.itt, status, sense, is_executed && pdu.flags & UNDERFLOW == 0);
        Ok(())
    }

    fn end(&mut self, itt: u32, status: u8, sense: Option<Sense>, is_whole: bool) {
        let Some(task) = self.tasks.get_mut(index(itt)).and_then(Option::take) else { return };
        self.free.push(itt);
        // With GOOD, the target must have sent all data of a read, and asked for all data of a write.
        let has_all = match task.transfer {
            Transfer::In(len) | Transfer::Out(len) => task.moved >= len,
            Transfer::None => true,
        };
        let Task { request, .. } = task;
        self.done.push_back(Done { request, status, sense, is_whole: is_whole && has_all });
    }

    /// Queues the data that the target asks for, in PDUs of at most the target's MaxRecvDataSegmentLength.
    fn r2t(&mut self, r2t: &R2t) -> Result<(), Fault> {
        self.window(r2t.exp_cmd_sn, r2t.max_cmd_sn);
        let (segment, burst) = (self.agreed.peer_segment_len, self.agreed.max_burst_len);
        let has_digests = self.digests();
        let task = self.tasks.get_mut(index(r2t.itt)).and_then(Option::as_mut);
        let task = task.ok_or(Fault::Unexpected(Opcode::R2t as u8))?;
        let Transfer::Out(expected) = task.transfer else { return Err(Fault::OutOfBounds) };
        let end = r2t.offset.checked_add(r2t.len).filter(|end| *end <= expected);
        let is_next = r2t.offset == task.moved && r2t.len > 0 && r2t.len <= burst;
        let end = end.filter(|_| is_next).ok_or(Fault::OutOfBounds)?;
        task.moved = end;
        let mut offset = r2t.offset;
        let mut data_sn = 0;
        while offset < end {
            let len = (end - offset).min(segment.max(512));
            let flags = if offset + len == end { FINAL } else { 0 };
            let (lun, itt, ttt, exp_stat_sn) = (self.lun, r2t.itt, r2t.ttt, self.exp_stat_sn);
            let pdu = DataOut { flags, lun, itt, ttt, exp_stat_sn, data_sn, offset };
            self.outbox.push(&pdu.encode(len), has_digests, |out| {
                task.request.give_data(offset, len, out);
            });
            offset += len;
            data_sn += 1;
        }
        Ok(())
    }

    fn nop_in(&mut self, pdu: &pdu::NopIn) -> Result<(), Fault> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if pdu.itt == PING_TAG {
            self.exp_stat_sn = pdu.stat_sn.wrapping_add(1);
        }
        if pdu.ttt == NO_TAG {
            return Ok(());
        }
        if self.pings.len() >= PINGS_MAX {
            return Err(Fault::Flood);
        }
        let answer = pdu::NopOut {
            flags: FINAL,
            lun: pdu.lun,
            itt: NO_TAG,
            ttt: pdu.ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let has_digests = self.digests();
        self.outbox.push(&answer.encode_immediate(0), has_digests, |_| {});
        self.pings.push_back(self.outbox.end());
        Ok(())
    }
}

/// The task tag of pings. The tags of commands are smaller than [`TASKS_MAX`].
const PING_TAG: u32 = 0x8000_0000;
/// The status of a command that the target did not execute. No target sends this value.
pub const TARGET_FAILURE: u8 = 0xff;

fn index(itt: u32) -> usize {
    usize::try_from(itt).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_spec_iscsi::{BHS_LEN, Header};

    fn session() -> Session<Vec<u8>> {
        let agreed = Agreed { peer_segment_len: 1024, first_burst_len: 512, ..Agreed::default() };
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
        let response = pdu::ScsiResponse {
            itt,
            stat_sn: 1,
            exp_cmd_sn: 6,
            max_cmd_sn: 9,
            ..Default::default()
        };
        response.encode(0)
    }

    #[test]
    fn a_read_takes_its_data_and_ends_with_the_status() {
        let mut session = session();
        session.submit([0x28; CDB_LEN], Transfer::In(8), vec![0; 8]).unwrap();
        assert!(
            session.submit([0; CDB_LEN], Transfer::None, vec![]).is_err(),
            "the window is closed"
        );
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
    fn pings_are_answered_but_not_without_limit_and_a_logout_request_ends_the_session() {
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
        let mut session = self::session();
        let message = pdu::AsyncMessage { event: 1, ..pdu::AsyncMessage::default() };
        assert_eq!(come(&mut session, message.encode(0), &[]), Err(Fault::Ended(1)));
    }
}
