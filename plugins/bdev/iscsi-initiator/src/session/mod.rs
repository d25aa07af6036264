//! A session in full feature phase, without a socket. It turns commands into bytes to send, and received bytes into finished commands.
//! RFC 7143; one connection, error recovery level 0, so any fault ends the session.

use drivebay_scsi::initiator::Transfer;
use drivebay_spec_iscsi::inbox::{Broken, Framing, Inbox};
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, DataIn, DataOut, FINAL, R2t, ScsiCommand, UNDERFLOW};
use drivebay_spec_iscsi::{NO_TAG, Opcode, is_before};
use drivebay_spec_scsi::sense::Sense;
use drivebay_spec_scsi::{CDB_LEN, lun};
use std::collections::VecDeque;
use std::fmt;

use crate::outbox::Outbox;

#[cfg(test)]
mod tests;

/// Maximum number of commands outstanding.
const TASKS_MAX: usize = 128;
/// Maximum number of answers to the target's pings that wait for the socket.
const PINGS_MAX: usize = 64;
/// Bytes to send above which no command begins: the target does not read.
const OUTBOX_LEN: usize = 1 << 20;
/// Longest data of a PDU that the target may send, in bytes.
pub const SEGMENT_LEN: u32 = 256 << 10;

/// The memory of a command's data.
pub trait Payload {
    /// Stores received data, from `offset` on.
    fn take_data(&mut self, offset: u32, bytes: &[u8]);
    /// Appends the `len` bytes from `offset` on to `out`.
    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>);
}

impl Payload for Vec<u8> {
    fn take_data(&mut self, offset: u32, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(place) = self.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }

    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>) {
        let (at, len) = (usize::try_from(offset), usize::try_from(len));
        let rest = self.get(at.unwrap_or(usize::MAX)..).unwrap_or_default();
        out.extend(rest.iter().take(len.unwrap_or(0)));
    }
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
    leaving: Leaving,
}

/// The progress of a logout that the target has requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// It has requested none.
    No,
    /// The outstanding commands end first, and no others begin.
    Draining,
    /// The initiator has sent Logout.
    LoggedOut,
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
            leaving: Leaving::No,
        }
    }

    /// The same session for another kind of request, while no command is outstanding.
    #[must_use]
    pub fn with_payload<Q: Payload>(self) -> Session<Q> {
        let Self { lun, agreed, framing, inbox, outbox, pings, .. } = self;
        let Self { cmd_sn, max_cmd_sn, exp_stat_sn, leaving, .. } = self;
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
            leaving,
        }
    }

    /// Whether headers, and data, have digests.
    #[must_use]
    pub fn digests(&self) -> (bool, bool) {
        (self.agreed.header_digest, self.agreed.data_digest)
    }

    /// Whether the target has requested a logout, so that no command begins any more.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    /// The requests of all outstanding commands.
    pub fn requests_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.tasks.iter_mut().flatten().map(|task| &mut task.request)
    }

    /// Queues a command to be sent.
    ///
    /// # Errors
    /// Returns the request when it must wait, because the target accepts no more commands now, or has requested a logout.
    pub fn submit(&mut self, cdb: [u8; CDB_LEN], transfer: Transfer, request: R) -> Result<(), R> {
        let is_full = self.free.is_empty() && self.tasks.len() == TASKS_MAX
            || self.outbox.rest().len() > OUTBOX_LEN;
        if is_full || self.is_leaving() || is_before(self.max_cmd_sn, self.cmd_sn) {
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
                    self.status_came(message.stat_sn, message.exp_cmd_sn, message.max_cmd_sn);
                    match message.event {
                        0 => {} // sense data of the unit, which the unit reports with its next command too
                        LOGOUT_REQUESTED if self.leaving == Leaving::No => {
                            self.leaving = Leaving::Draining;
                        }
                        LOGOUT_REQUESTED => {}
                        event => return Err(Fault::Ended(event)),
                    }
                }
                Opcode::LogoutResponse if self.leaving == Leaving::LoggedOut => {
                    return Err(Fault::Ended(LOGOUT_REQUESTED));
                }
                Opcode::Reject => {
                    return Err(Fault::Rejected(pdu::Reject::parse(&frame.bhs).reason));
                }
                _ => return Err(unexpected),
            }
            inbox.consume(&frame);
        }
        self.log_out_when_idle();
        Ok(())
    }

    /// Queues the logout that the target has requested, once no command is outstanding. The target closes the connection if that takes
    /// too long. RFC 7143, section 11.9.1.
    fn log_out_when_idle(&mut self) {
        if self.leaving != Leaving::Draining || self.free.len() < self.tasks.len() {
            return;
        }
        self.leaving = Leaving::LoggedOut;
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn, self.exp_stat_sn);
        let logout = pdu::Logout { reason: FINAL, itt: LOGOUT_TAG, cid: 0, cmd_sn, exp_stat_sn };
        let has_digests = self.digests();
        self.outbox.push(&logout.encode_immediate(0), has_digests, |_| {});
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

/// The task tags of pings and of the logout. The tags of commands are smaller than [`TASKS_MAX`].
const PING_TAG: u32 = 0x8000_0000;
const LOGOUT_TAG: u32 = 0x8000_0001;
/// The event of an Async Message that requests a logout. RFC 7143, section 11.9.1.
const LOGOUT_REQUESTED: u8 = 1;
/// The status of a command that the target did not execute. No target sends this value.
pub const TARGET_FAILURE: u8 = 0xff;

fn index(itt: u32) -> usize {
    usize::try_from(itt).unwrap_or(usize::MAX)
}
