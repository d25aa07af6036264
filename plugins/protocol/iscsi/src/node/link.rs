//! A connection in full feature phase.

use super::session::{Order, Session, SessionId};
use super::table::Table;
use super::{Backend, Chore, IoKey, Shared};
use crate::connection::{Body, Framing, Inbox, Outbox};
use drivebay_scsi::{Identity, TaskKey};
use drivebay_sdk::bdev::IoResult;
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, AsyncMessage, FINAL};
use drivebay_spec_iscsi::{BHS_LEN, NO_TAG, Opcode};

/// Bytes in the outbox above which the link handles no further PDUs.
const OUTBOX_LEN: usize = 1 << 20;
/// Bytes in the inbox above which the link reads no more. Every PDU is shorter.
const INBOX_LEN: usize = 256 << 10;
/// Longest data of a PDU that the target accepts, in bytes.
pub const SEGMENT_LEN: u32 = 65_536;

/// A connection that has logged in.
#[derive(Debug)]
pub struct Established {
    /// Its session.
    pub session: SessionId,
    /// Its number in the session.
    pub cid: u16,
    /// The initiator's name.
    pub initiator: String,
    /// The identity of the initiator port.
    pub identity: Identity,
    /// Tag of the portal group.
    pub portal_group: i32,
    /// The negotiated values.
    pub agreed: Agreed,
    /// StatSN of the next response.
    pub stat_sn: u32,
    /// ExpCmdSN of the session, if this is its first connection.
    pub exp_cmd_sn: u32,
    /// Maximum number of commands of the session in progress.
    pub depth: u32,
    /// Maximum number of buffers of read data that are not sent yet.
    pub reads_max: usize,
    /// Silence after which the target sends a NOP-In, in nanoseconds; 0: never.
    pub ping_ns: u64,
    /// Longest wait for the answer to a NOP-In, in nanoseconds.
    pub timeout_ns: u64,
    /// Bytes that arrived after the last login PDU.
    pub rest: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Link<B> {
    pub(super) id: u32,
    session: SessionId,
    cid: u16,
    portal_group: i32,
    pub(super) agreed: Agreed,
    pub(super) stat_sn: u32,
    pub(super) reads_max: usize,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox<B>,
    pub(super) table: Table<B>,
    state: State,
    ping_ns: u64,
    timeout_ns: u64,
    heard_ns: u64,
    pub(super) pinged: bool,
    /// A task waits until something was sent.
    pub(super) is_held: bool,
    /// The link has stopped before a PDU: commands on other connections come first, or the node has to run a task management function.
    pub(super) is_paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The link handles PDUs.
    Running,
    /// The link sends what is left, and handles no more PDUs.
    Closing,
    /// The link only waits for the end of its I/Os.
    Ended,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Link<B> {
    pub(super) fn new(id: u32, new: Established, now_ns: u64) -> Self {
        let mut outbox = Outbox::default();
        outbox.set_digests(new.agreed.header_digest, new.agreed.data_digest);
        let mut inbox = Inbox::default();
        inbox.push(&new.rest);
        Self {
            id,
            session: new.session,
            cid: new.cid,
            portal_group: new.portal_group,
            agreed: new.agreed,
            stat_sn: new.stat_sn,
            reads_max: new.reads_max.max(4),
            inbox,
            outbox,
            table: Table::new(id),
            state: State::Running,
            ping_ns: new.ping_ns,
            timeout_ns: new.timeout_ns,
            heard_ns: now_ns,
            pinged: false,
            is_held: false,
            is_paused: false,
        }
    }

    /// Its session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Its number in the session.
    pub fn cid(&self) -> u16 {
        self.cid
    }

    /// Tag of the portal group.
    pub fn portal_group(&self) -> i32 {
        self.portal_group
    }

    /// The PDUs to send.
    pub fn outbox(&mut self) -> &mut Outbox<B> {
        &mut self.outbox
    }

    /// Whether the socket can be closed: the link handles no more PDUs, and everything was sent.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Running => false,
            State::Closing => self.outbox.is_empty(),
            State::Ended => true,
        }
    }

    /// Whether the link accepts bytes now.
    pub fn wants_bytes(&self) -> bool {
        self.handles_pdus() && self.inbox.rest().len() < INBOX_LEN
    }

    fn handles_pdus(&self) -> bool {
        self.state == State::Running && self.outbox.len() < OUTBOX_LEN
    }

    /// Whether nothing is left of the link.
    pub(super) fn has_gone(&self) -> bool {
        self.state == State::Ended && self.table.is_empty()
    }

    /// Handles the complete PDUs, until one has to wait.
    pub(super) fn work<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        let framing = Framing {
            header_digest: self.agreed.header_digest,
            data_digest: self.agreed.data_digest,
            data_len_max: SEGMENT_LEN,
        };
        let mut inbox = std::mem::take(&mut self.inbox);
        self.is_paused = false;
        while self.handles_pdus() && !self.is_paused {
            match inbox.front(&framing) {
                Ok(Some(frame)) => {
                    self.heard_ns = shared.now_ns;
                    if !self.pdu(&frame.bhs, &frame.header, inbox.data(&frame), shared) {
                        self.is_paused = true;
                        break;
                    }
                    inbox.consume(&frame);
                    // Stop here: the function must not affect the commands that follow it (RFC 7143, section 4.2.3.2).
                    self.is_paused = frame.header.kind() == Some(Opcode::TaskManagement);
                }
                Ok(None) => break,
                Err(broken) => {
                    // At error recovery level 0, a PDU that cannot be trusted ends the session (RFC 7143, section 7.6).
                    tracing::warn!(session = self.session, "a connection ends: {broken}");
                    self.fall(shared);
                }
            }
        }
        shared.has_paused |= self.is_paused;
        self.inbox = inbox;
    }

    /// The place of a command in the session's order.
    pub(super) fn order<K: Backend>(
        &self,
        cmd_sn: u32,
        immediate: bool,
        shared: &mut Shared<K>,
    ) -> Order {
        let session = shared.sessions.get_mut(&self.session);
        session.map_or(Order::Outside, |session| session.order(cmd_sn, immediate))
    }

    pub(super) fn session_mut<'a, K: Backend>(
        &self,
        shared: &'a mut Shared<K>,
    ) -> Option<&'a mut Session> {
        shared.sessions.get_mut(&self.session)
    }

    /// ExpCmdSN and MaxCmdSN.
    pub(super) fn window<K: Backend>(&self, shared: &mut Shared<K>) -> (u32, u32) {
        self.session_mut(shared).map_or((0, 0), Session::window)
    }

    /// Takes the StatSN of a response.
    pub(super) fn take_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    /// Rejects a PDU.
    pub(super) fn reject<K: Backend>(
        &mut self,
        bhs: &[u8; BHS_LEN],
        reason: pdu::RejectReason,
        shared: &mut Shared<K>,
    ) {
        let window = self.window(shared);
        let reject = pdu::Reject::new(reason, self.take_stat_sn(), window);
        self.outbox.push(reject.encode(48), Body::Bytes(bhs.to_vec()));
    }

    /// Ends the connection without an answer: the peer broke the protocol, or is gone.
    pub(super) fn fall<K: Backend>(&mut self, shared: &mut Shared<K>) {
        shared.chores.push(Chore::EndLink(self.id));
        self.state = if self.state == State::Ended { State::Ended } else { State::Closing };
    }

    /// Handles no more PDUs, and lets the connection end when everything was sent.
    pub(super) fn close_soon(&mut self) {
        if self.state == State::Running {
            self.state = State::Closing;
        }
    }

    /// Ends the link and aborts its tasks. Returns `false` if it had ended before.
    pub(super) fn end<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) -> bool {
        if self.state == State::Ended {
            return false;
        }
        self.state = State::Ended;
        self.outbox = Outbox::default();
        self.inbox = Inbox::default();
        for key in self.table.keys() {
            self.abort(key, shared);
        }
        true
    }

    /// Pings a silent peer. Ends the connection if the peer does not answer in time, or does not read the last responses.
    pub(super) fn tick<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        if self.state == State::Ended || self.ping_ns == 0 {
            return;
        }
        let silent_ns = shared.now_ns.saturating_sub(self.heard_ns);
        let is_late = silent_ns > self.ping_ns.saturating_add(self.timeout_ns);
        if self.state == State::Closing {
            if is_late {
                self.fall(shared);
            }
        } else if self.pinged && is_late {
            tracing::info!(
                session = self.session,
                "a connection ends: the initiator does not answer a NOP-In"
            );
            self.fall(shared);
        } else if !self.pinged && silent_ns > self.ping_ns {
            self.pinged = true;
            self.ping(shared);
        } else if silent_ns <= self.ping_ns {
            self.pinged = false;
        }
    }

    pub(super) fn request_logout<K: Backend>(&mut self, seconds: u16, shared: &mut Shared<K>) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let message = AsyncMessage {
            flags: FINAL,
            tag: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            event: 1,
            parameter3: seconds,
            ..AsyncMessage::default()
        };
        self.outbox.push(message.encode(0), Body::None);
    }

    /// Handles the end of a task's I/O.
    pub(super) fn io_ended<K: Backend<Buffer = B>>(
        &mut self,
        key: IoKey,
        buffer: B,
        result: IoResult,
        shared: &mut Shared<K>,
    ) {
        self.piece_ended(key.task, key.piece, buffer, result, shared);
    }

    /// Continues a task whose turn at the gate has come.
    pub(super) fn admitted<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        shared: &mut Shared<K>,
    ) {
        if let Some(entry) = self.table.get_mut(key) {
            drivebay_scsi::Device::admitted(&mut entry.task);
            self.submit_collected(key, shared);
            self.advance(key, shared);
        }
    }

    /// Lets all tasks continue as far as they can.
    pub(super) fn advance_all<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        if self.state == State::Ended {
            return;
        }
        for key in self.table.keys() {
            self.advance(key, shared);
        }
    }
}
