//! The state of one NVMe/TCP connection: bytes in, requests out; responses in, bytes out. No sockets here.
//!
//! Read in this order: this file (states, what the driver of the socket calls), `receive.rs` (PDUs as they come),
//! `transfer.rs` (what data a command moves), `command.rs` (the slots), `answer.rs` (responses, data, R2Ts),
//! `outbox.rs` (what is still to be sent). Sections are those of the NVMe/TCP Transport Specification 1.0.
//!
//! ```text
//!               ICReq                    C2HTermReq queued, or close()
//! Handshake ────────────▶ Open ─────────────────────────────▶ Terminating / Closing
//!     │                     │                                      │
//!     └─────────────────────┴──── end of stream, H2CTermReq ───────┴────▶ Ended
//! ```

mod ahead;
mod answer;
mod command;
#[cfg(test)]
pub(crate) mod doubles;
mod inbox;
mod outbox;
mod receive;
#[cfg(test)]
mod tests;
mod transfer;

use ahead::Ahead;
pub(crate) use command::SLOTS_MAX;
use command::{Commands, State};
use drivebay_spec_nvme_tcp::{Alignment, Receiver, Role};
pub(crate) use inbox::Inbox;
use outbox::Outbox;
pub(crate) use outbox::SLICES;
use receive::{Data, Stage};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

/// Longest in-capsule data of admin and Fabrics commands, in bytes. Section 3.3.2.
pub(crate) const ADMIN_CAPSULE_DATA: u32 = 8192;

/// Commands without data in their capsule that are taken in one round: more wait for the next one, so that the first
/// answers are on their way, and their memory is used again while it is in the cache, before the last command of a burst
/// was looked at. Data in capsules is bounded by the inbox.
const BURST: u32 = 32;

/// Pieces of one receive: the data of the current PDU, header and data of each capsule that is foreseen, the inbox.
pub(crate) const PLACES: usize = 2 + 2 * ahead::CAPSULES;

/// How much is received beyond the data of an R2T, in bytes: the next header, and commands, but little data, which would
/// have to be copied once more.
const AHEAD: usize = 8 << 10;

/// How long a host may take to send the data of a command after it announced it or was asked for it, in nanoseconds. Hosts themselves
/// give a command up after 30 s.
const DATA_WAIT_NS: u64 = 30_000_000_000;

/// Memory of one command: the request that is lent to the target, and its data.
pub(crate) trait Carrier {
    /// The slot it was made for.
    fn slot(&self) -> u16;
    /// Begins a new life with this command and no data.
    fn begin(&mut self, command: &[u8; 64]);
    /// Gets memory for `len` bytes of data; `false` when there is none now.
    fn obtain(&mut self, len: u32) -> bool;
    /// Says what the data is for, before the request is lent.
    fn set_transfer(&mut self, from_host: bool, len: u32);
    /// Gives the memory back.
    fn release(&mut self);
    /// The pieces of `len` bytes of data at `offset`.
    fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]>;
    /// The data at `offset`, up to the end of its piece; empty behind the end.
    fn data_mut(&mut self, offset: u32) -> &mut [u8];
    /// The response, filled by the target.
    fn response(&self) -> [u8; 16];
    /// Length of the data that the target sends, in bytes.
    fn response_len(&self) -> u32;
}

/// Where the requests of a connection go.
pub(crate) trait Target<R> {
    /// Makes the request of a slot; each slot's is made once.
    fn make(&mut self, slot: u16) -> R;
    /// Lends a request; it comes back by [`Connection::complete`], not from inside this call.
    fn exec(&mut self, request: R);
}

/// What a connection may use, from the transport's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Commands outstanding.
    pub(crate) depth: u16,
    /// Longest in-capsule data of an I/O command, in bytes.
    pub(crate) in_capsule_len: u32,
    /// Longest data of a command, in bytes.
    pub(crate) io_len: u32,
    /// Longest data of an H2CData PDU and of one R2T, in bytes.
    pub(crate) h2c_data_len: u32,
    /// Reads may succeed without a response capsule.
    pub(crate) c2h_success: bool,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing came yet: ICReq is awaited.
    Handshake,
    /// Commands come.
    Open,
    /// A C2HTermReq is the last that is sent; the peer is to close.
    Terminating,
    /// The target ends the connection: what is queued is sent, then it is closed.
    Closing,
    /// Nothing is to be sent or received any more.
    Ended,
}

/// What the target told of the queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    qid: u16,
    /// Entries of the submission queue.
    size: u16,
    flow_control: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection<R> {
    limits: Limits,
    phase: Phase,
    /// What may come, digests included.
    accepts: Receiver,
    /// Alignment of data that is sent.
    host_alignment: Alignment,
    /// R2Ts of one command that may be outstanding.
    r2ts: usize,
    queue: Option<Queue>,
    /// Commands that were answered without the target, which therefore did not count them.
    answered_here: u16,
    /// The queue head that the target told last.
    head: u16,
    /// The group's, while it is this connection's turn to receive.
    inbox: Inbox,
    /// What was in it when the last turn ended.
    kept: Vec<u8>,
    stage: Stage,
    ahead: Ahead<R>,
    /// Data that R2Ts have asked for and that has not come, in bytes.
    awaited: u64,
    /// Commands without data in their capsule taken in this round.
    taken: u32,
    /// Commands that came with the last receive, as far as they were taken.
    came_at_once: usize,
    /// The most that did since the host last paused: how many it has under way, as far as can be seen.
    depth_seen: usize,
    /// Received bytes wait for the next round.
    paused: bool,
    /// Received bytes wait for a slot, for memory or for the peer to read.
    stalled: bool,
    commands: Commands<R>,
    /// Commands that wait for memory, first come first served.
    waiting: VecDeque<u16>,
    outbox: Outbox,
    /// The host's clock when its turn began last, in nanoseconds.
    now_ns: u64,
    /// What the host did wrong, until it is logged.
    fault: Option<String>,
}

impl<R: Carrier> Connection<R> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Handshake,
            accepts: Receiver {
                max_in_capsule_len: limits.in_capsule_len.max(ADMIN_CAPSULE_DATA),
                max_h2c_data_len: limits.h2c_data_len,
                ..Receiver::new(Role::Controller)
            },
            host_alignment: Alignment::DWORD,
            r2ts: 1,
            queue: None,
            answered_here: 0,
            head: 0,
            inbox: Inbox::default(),
            kept: Vec::new(),
            stage: Stage::Header,
            ahead: Ahead::default(),
            awaited: 0,
            taken: 0,
            came_at_once: 0,
            depth_seen: 0,
            paused: false,
            stalled: false,
            commands: Commands::new(limits.depth),
            waiting: VecDeque::new(),
            outbox: Outbox::default(),
            now_ns: 0,
            fault: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The target accepted the connection as queue `qid` of `size` entries.
    pub(crate) fn connected(&mut self, qid: u16, size: u16, flow_control: bool) {
        self.queue = Some(Queue { qid, size, flow_control });
    }

    /// Fills `places` with where the next bytes go: the data of the current PDU where it belongs, capsules that are foreseen, and the
    /// receive buffer; returns how many it filled, none when nothing may be received now. [`Connection::received`] or
    /// [`Connection::nothing_came`] must follow.
    pub(crate) fn receive_slices<'a>(
        &'a mut self,
        target: &mut impl Target<R>,
        places: &mut [IoSliceMut<'a>; PLACES],
    ) -> usize {
        if self.phase == Phase::Ended {
            return 0;
        }
        self.look_ahead(target);
        let room = if self.outbox.is_full() && self.stalled {
            0
        } else if self.awaited > 0 {
            AHEAD
        } else {
            inbox::LEN - self.inbox.filled().len() - self.ahead.capsules_len()
        };
        let Self { stage, commands, inbox, ahead, .. } = self;
        let mut filled = 0;
        let mut put = |piece: &'a mut [u8]| {
            if let Some(place) = places.get_mut(filled).filter(|_| !piece.is_empty()) {
                *place = IoSliceMut::new(piece);
                filled += 1;
            }
        };
        if inbox.is_empty() {
            put(stage.direct(commands));
        }
        let begun = inbox.filled().len();
        let rest = ahead.scatter(inbox.space(), begun, &mut put);
        let len = room.min(rest.len());
        put(rest.get_mut(..len).unwrap_or_default());
        filled
    }

    /// Whether [`Connection::receive_slices`] has room.
    pub(crate) fn can_receive(&self) -> bool {
        self.phase != Phase::Ended
            && self.inbox.filled().len() + self.kept.len() < inbox::LEN
            && !(self.stalled && self.outbox.is_full())
    }

    /// It is this connection's turn to receive, with the group's buffer, and to take a burst of commands.
    #[inline]
    pub(crate) fn begin_turn(&mut self, shared: &mut Inbox) {
        self.inbox.begin_turn(shared, &mut self.kept);
        self.taken = 0;
    }

    /// Its turn is at this time, on the host's clock in nanoseconds.
    #[inline]
    pub(crate) fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// What the host did wrong, for the log.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// Whether memory is held for data that the host is to send.
    #[inline]
    pub(crate) fn awaits_data(&self) -> bool {
        self.awaited > 0 || self.is_within_capsule()
    }

    /// Whether a command's data is overdue.
    pub(crate) fn owes_data(&self, now_ns: u64) -> bool {
        let is_late = |since_ns: u64| now_ns.saturating_sub(since_ns) > DATA_WAIT_NS;
        self.commands.any(|command| match command.state {
            State::Data => is_late(command.since_ns),
            State::Capsule => self.is_within_capsule() && is_late(command.since_ns),
            State::Free | State::Memory | State::Lent | State::Sending => false,
        })
    }

    /// Whether the data of a capsule is on its way, and has its memory.
    fn is_within_capsule(&self) -> bool {
        match &self.stage {
            Stage::Header => false,
            Stage::Data(data) => data.has_memory || self.waits_for_rest(data),
            Stage::Digest(_) => true,
        }
    }

    /// Whether the rest of a Connect is to come first: before it is there, it is given no memory.
    fn waits_for_rest(&self, data: &Data) -> bool {
        let come = self.inbox.filled().len() + self.kept.len();
        self.queue.is_none() && !data.has_memory && come < data.left()
    }

    /// The host has sent nothing for a while: it may go on with more or fewer commands at once.
    pub(crate) fn host_paused(&mut self) {
        self.depth_seen = 0;
    }

    /// The commands that were taken in this round, and how many the host seems to have under way; `None` while some are still here.
    pub(crate) fn burst_over(&self) -> Option<(usize, usize)> {
        self.commands.are_free().then_some((self.taken as usize, self.depth_seen))
    }

    /// The turn is over.
    #[inline]
    pub(crate) fn end_turn(&mut self, shared: &mut Inbox) {
        self.inbox.end_turn(shared, &mut self.kept);
    }

    /// The stream ended, orderly or not: nothing more is sent.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.outbox.clear();
        self.forget_received();
        self.commands.release_all(true);
    }

    /// The target ends the connection: answers that were given back are still sent.
    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Handshake | Phase::Open) {
            self.phase = Phase::Closing;
            self.stop_receiving();
        }
    }

    /// Whether a command or the data of a capsule waits for memory.
    pub(crate) fn is_starving(&self) -> bool {
        let is_capsule = match &self.stage {
            Stage::Data(data) => !data.has_memory && !self.waits_for_rest(data),
            Stage::Header | Stage::Digest(_) => false,
        };
        is_capsule || !self.waiting.is_empty()
    }

    /// Whether received bytes wait for the next round.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Length of the data that the first of them waits for, in bytes; 0 when none waits.
    pub(crate) fn needs(&self) -> u32 {
        let slot = self.waiting.front().copied().or(match &self.stage {
            Stage::Data(data) if !data.has_memory => data.slot,
            _ => None,
        });
        slot.and_then(|slot| self.commands.get(slot)).map_or(0, |command| command.len)
    }

    /// Whether something is to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether received bytes wait for a slot, for memory or for room to answer.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// How many requests the target has.
    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.commands.lent()
    }

    /// Fills `slices` with what is to be sent next; returns how many it filled.
    pub(crate) fn send_slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        self.outbox.end_burst();
        self.outbox.fill(&self.commands, slices)
    }

    /// The first `n` bytes of [`Connection::send_slices`] were sent.
    pub(crate) fn sent(&mut self, n: usize) {
        let Self { outbox, commands, .. } = self;
        outbox.sent(n, |slot| commands.release(slot));
    }

    fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Open)
    }

    /// Nothing that comes from now on counts; memory goes back except what is being sent.
    fn stop_receiving(&mut self) {
        self.forget_received();
        self.commands.release_all(false);
    }

    fn forget_received(&mut self) {
        self.nothing_came();
        self.inbox.clear();
        self.kept = Vec::new();
        self.waiting.clear();
        self.stage = Stage::Header;
        self.awaited = 0;
        (self.stalled, self.paused) = (false, false);
    }
}
