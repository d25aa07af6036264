//! A connection in full feature phase.

use super::session::{Order, Session, SessionId};
use super::table::Table;
use super::{Backend, Chore, IoKey, Shared};
use crate::connection::inbox::{Framing, Inbox};
use crate::connection::{Body, Outbox};
use drivebay_scsi::{Identity, TaskKey};
use drivebay_sdk::bdev::IoResult;
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, AsyncMessage, FINAL};
use drivebay_spec_iscsi::{BHS_LEN, NO_TAG};

/// What waits to be sent at most before nothing more is begun, in bytes.
const OUTBOX_LEN: usize = 1 << 20;
/// What the target takes in one PDU, in bytes.
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
    /// Who the initiator port is.
    pub identity: Identity,
    /// The portal group by which it came.
    pub portal_group: i32,
    /// What was agreed.
    pub agreed: Agreed,
    /// StatSN of the next response.
    pub stat_sn: u32,
    /// ExpCmdSN of the session, if this is its first connection.
    pub exp_cmd_sn: u32,
    /// Most commands under way.
    pub depth: u32,
    /// Most buffers of reads that are not sent yet.
    pub reads_max: usize,
    /// How long the connection may be silent before it is pinged, in nanoseconds; 0 = for ever.
    pub ping_ns: u64,
    /// How long an answer to a ping may take, in nanoseconds.
    pub timeout_ns: u64,
    /// What had come behind the last login PDU.
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Commands are taken.
    Running,
    /// The last response is on its way; nothing more is taken.
    Closing,
    /// It waits for its I/Os only.
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

    /// The portal group by which it came.
    pub fn portal_group(&self) -> i32 {
        self.portal_group
    }

    /// What it has to send.
    pub fn outbox(&mut self) -> &mut Outbox<B> {
        &mut self.outbox
    }

    /// Whether its socket is to be closed: nothing more is taken, and all was sent.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Running => false,
            State::Closing => self.outbox.is_empty(),
            State::Ended => true,
        }
    }

    /// Whether bytes are taken now.
    pub fn wants_bytes(&self) -> bool {
        self.state == State::Running && self.outbox.len() < OUTBOX_LEN
    }

    /// Whether nothing is left of it.
    pub(super) fn has_gone(&self) -> bool {
        self.state == State::Ended && self.table.is_empty()
    }

    /// Works on the PDUs that are whole.
    pub(super) fn work<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        let framing = Framing {
            header_digest: self.agreed.header_digest,
            data_digest: self.agreed.data_digest,
            data_len_max: SEGMENT_LEN,
        };
        let mut inbox = std::mem::take(&mut self.inbox);
        while self.wants_bytes() {
            match inbox.front(&framing) {
                Ok(Some(frame)) => {
                    self.heard_ns = shared.now_ns;
                    if !self.pdu(&frame.bhs, &frame.header, inbox.data(&frame), shared) {
                        break;
                    }
                    inbox.consume(&frame);
                }
                Ok(None) => break,
                Err(broken) => {
                    // Error recovery level 0: what cannot be trusted ends the session (RFC 7143, section 7.6).
                    tracing::warn!(session = self.session, "a connection ends: {broken}");
                    self.fall(shared);
                }
            }
        }
        self.inbox = inbox;
    }

    /// Where the command stands in the session's order.
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

    /// The StatSN of a response.
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
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let reject = pdu::Reject {
            flags: FINAL,
            reason: reason as u8,
            tag: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        self.outbox.push(reject.encode(48), Body::Bytes(bhs.to_vec()));
    }

    /// The peer breaks the protocol: the connection ends without a word.
    pub(super) fn fall<K: Backend>(&mut self, shared: &mut Shared<K>) {
        shared.chores.push(Chore::EndLink(self.id));
        self.state = if self.state == State::Ended { State::Ended } else { State::Closing };
    }

    /// Nothing more is taken; it ends when all was sent.
    pub(super) fn close_soon(&mut self) {
        if self.state == State::Running {
            self.state = State::Closing;
        }
    }

    /// Ends it: its tasks are aborted. Whether it had not ended before.
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

    /// Pings a peer that is silent, and ends a connection whose peer is gone.
    pub(super) fn tick<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        if self.state != State::Running || self.ping_ns == 0 {
            return;
        }
        let silent_ns = shared.now_ns.saturating_sub(self.heard_ns);
        if self.pinged && silent_ns > self.ping_ns.saturating_add(self.timeout_ns) {
            tracing::info!(session = self.session, "no answer to a ping: the connection ends");
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

    /// An I/O of a task has ended.
    pub(super) fn io_ended<K: Backend<Buffer = B>>(
        &mut self,
        key: IoKey,
        buffer: B,
        result: IoResult,
        shared: &mut Shared<K>,
    ) {
        self.piece_ended(key.task, key.piece, buffer, result, shared);
    }

    /// The turn of a task has come.
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

    /// All tasks go on as far as they can.
    pub(super) fn advance_all<K: Backend<Buffer = B>>(&mut self, shared: &mut Shared<K>) {
        if self.state == State::Ended {
            return;
        }
        for key in self.table.keys() {
            self.advance(key, shared);
        }
    }
}
