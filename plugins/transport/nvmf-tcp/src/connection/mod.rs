//! The state of one NVMe/TCP connection: bytes in, requests out; responses in, bytes out. It uses no sockets.
//!
//! Read in this order: this file (states, and the functions that the socket's code calls), `receive.rs` (incoming
//! PDUs), `transfer.rs` (the data of a command), `command.rs` (the slots), `answer.rs` (responses, data, R2Ts),
//! `outbox.rs` (the send queue). Sections are those of the NVMe/TCP Transport Specification 1.0.
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

/// The maximum number of commands without in-capsule data to process in one round. The others wait for the next round. So the first
/// answers leave, and their memory is used again while it is in the cache, before the last command of a burst is
/// processed. The inbox bounds data in capsules.
const BURST: u32 = 32;

/// The maximum number of pieces of one receive: the data of the current PDU, header and data of each predicted capsule, the inbox.
pub(crate) const PLACES: usize = 2 + 2 * ahead::CAPSULES;

/// How many bytes to receive beyond the data of an R2T: room for the next header and for commands, but little for data,
/// because that data would be copied again.
const AHEAD: usize = 8 << 10;

/// How long a host may take to send the data of a command after it announced the data or an R2T requested it, in
/// nanoseconds. Hosts themselves give up a command after 30 s.
const DATA_WAIT_NS: u64 = 30_000_000_000;

/// Memory of one command: the request that is lent to the target, and its data.
pub(crate) trait Carrier {
    /// Number of the slot for which the request was created.
    fn slot(&self) -> u16;
    /// Starts over with this command and no data.
    fn begin(&mut self, command: &[u8; 64]);
    /// Gets memory for `len` bytes of data. Returns `false` if there is none now.
    fn obtain(&mut self, len: u32) -> bool;
    /// Sets the direction and length of the data, before the request is lent.
    fn set_transfer(&mut self, from_host: bool, len: u32);
    /// Gives the memory back.
    fn release(&mut self);
    /// The pieces of `len` bytes of data at `offset`.
    fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]>;
    /// The data from `offset` to the end of its piece. Empty past the end.
    fn data_mut(&mut self, offset: u32) -> &mut [u8];
    /// The response that the target has filled in.
    fn response(&self) -> [u8; 16];
    /// Length of the data that the target sends, in bytes.
    fn response_len(&self) -> u32;
}

/// Where the requests of a connection go.
pub(crate) trait Target<R> {
    /// Creates the request of a slot. Each slot's request is created once.
    fn make(&mut self, slot: u16) -> R;
    /// Lends a request. It comes back by [`Connection::complete`], but not inside this call.
    fn exec(&mut self, request: R);
}

/// The limits of a connection, from the transport's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The maximum number of commands outstanding.
    pub(crate) depth: u16,
    /// Longest in-capsule data of an I/O command, in bytes.
    pub(crate) in_capsule_len: u32,
    /// Longest data of a command, in bytes.
    pub(crate) io_len: u32,
    /// Longest data of an H2CData PDU and of one R2T, in bytes.
    pub(crate) h2c_data_len: u32,
    /// Whether reads may succeed without a response capsule.
    pub(crate) c2h_success: bool,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has arrived: the connection waits for ICReq.
    Handshake,
    /// The host may send commands.
    Open,
    /// C2HTermReq is the last PDU to send. Then the peer has to close.
    Terminating,
    /// The target ends the connection. It sends the queued PDUs, then closes.
    Closing,
    /// Nothing is sent or received any more.
    Ended,
}

/// The target's description of the queue.
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
    /// The PDUs that are allowed now, and their digests.
    accepts: Receiver,
    /// Alignment of the data to send.
    host_alignment: Alignment,
    /// The maximum number of outstanding R2Ts of one command.
    r2ts: usize,
    queue: Option<Queue>,
    /// Number of commands that were answered without the target, so the target did not count them.
    answered_here: u16,
    /// The queue head in the target's last response.
    head: u16,
    /// The group's inbox, while it is this connection's turn to receive.
    inbox: Inbox,
    /// The unprocessed bytes from the end of the last turn.
    kept: Vec<u8>,
    stage: Stage,
    ahead: Ahead<R>,
    /// Bytes of data that R2Ts have requested and that have not arrived.
    awaited: u64,
    /// Number of commands without in-capsule data that this round has processed.
    taken: u32,
    /// Number of commands of the last receive that were processed.
    came_at_once: usize,
    /// The highest such number since the host last paused: an estimate of how many commands the host has in flight.
    depth_seen: usize,
    /// Whether received bytes wait for the next round.
    paused: bool,
    /// Whether received bytes wait for a slot, for memory, or for the peer to read.
    stalled: bool,
    commands: Commands<R>,
    /// Commands that wait for memory, in order of arrival.
    waiting: VecDeque<u16>,
    outbox: Outbox,
    /// The host's clock at the beginning of its last turn, in nanoseconds.
    now_ns: u64,
    /// The host's violation of the protocol, until it is logged.
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

    /// Notes that the target accepted the connection as queue `qid` with `size` entries.
    pub(crate) fn connected(&mut self, qid: u16, size: u16, flow_control: bool) {
        self.queue = Some(Queue { qid, size, flow_control });
    }

    /// Fills `places` with the places for the next bytes: the memory for the data of the current PDU, the predicted
    /// capsules, and the receive buffer. Returns the number of places, or 0 if nothing may be received now. The caller
    /// must then call [`Connection::received`] or [`Connection::release_unused`].
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

    /// Begins the connection's turn to receive, with the group's buffer, and to process a burst of commands.
    #[inline]
    pub(crate) fn begin_turn(&mut self, shared: &mut Inbox) {
        self.inbox.begin_turn(shared, &mut self.kept);
        self.taken = 0;
    }

    /// Sets the time of its turn, on the host's clock in nanoseconds.
    #[inline]
    pub(crate) fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Takes the host's violation of the protocol, for the log.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// Whether the connection holds memory for data that the host still has to send.
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

    /// Whether the data of a capsule is arriving, and has its memory.
    fn is_within_capsule(&self) -> bool {
        match &self.stage {
            Stage::Header => false,
            Stage::Data(data) => data.has_memory || self.waits_for_rest(data),
            Stage::Digest(_) => true,
        }
    }

    /// Whether the rest of a Connect must arrive first. Until then the Connect gets no memory.
    fn waits_for_rest(&self, data: &Data) -> bool {
        let come = self.inbox.filled().len() + self.kept.len();
        self.queue.is_none() && !data.has_memory && come < data.left()
    }

    /// Handles a pause of the host: forgets the estimate, because the host may continue with more or fewer commands at
    /// once.
    pub(crate) fn host_paused(&mut self) {
        self.depth_seen = 0;
    }

    /// The number of commands of this round, and of the host's commands in flight as estimated. `None` while the
    /// connection still has some of them.
    pub(crate) fn burst_over(&self) -> Option<(usize, usize)> {
        self.commands.are_free().then_some((self.taken as usize, self.depth_seen))
    }

    /// Ends the turn.
    #[inline]
    pub(crate) fn end_turn(&mut self, shared: &mut Inbox) {
        self.inbox.end_turn(shared, &mut self.kept);
    }

    /// The stream has ended, cleanly or not: sends nothing more.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.outbox.clear();
        self.forget_received();
        self.commands.release_all(true);
    }

    /// The target ends the connection. Answers that it has already returned are still sent.
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

    /// Length of the data that the first waiting command needs, in bytes. 0 if none waits.
    pub(crate) fn needs(&self) -> u32 {
        let slot = self.waiting.front().copied().or(match &self.stage {
            Stage::Data(data) if !data.has_memory => data.slot,
            _ => None,
        });
        slot.and_then(|slot| self.commands.get(slot)).map_or(0, |command| command.len)
    }

    /// Whether there are bytes to send.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether received bytes wait for a slot, for memory or for room to answer.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// The number of requests at the target.
    #[cfg(test)]
    pub(crate) fn at_target(&self) -> usize {
        self.commands.at_target()
    }

    /// Fills `slices` with the next bytes to send. Returns the number of slices.
    pub(crate) fn send_slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        self.outbox.end_burst();
        self.outbox.fill(&self.commands, slices)
    }

    /// Accounts for `n` sent bytes of [`Connection::send_slices`].
    pub(crate) fn sent(&mut self, n: usize) {
        let Self { outbox, commands, .. } = self;
        outbox.sent(n, |slot| commands.release(slot));
    }

    fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Open)
    }

    /// Ignores all further input. All memory is released, except the memory of data in transmission.
    fn stop_receiving(&mut self) {
        self.forget_received();
        self.commands.release_all(false);
    }

    fn forget_received(&mut self) {
        self.release_unused();
        self.inbox.clear();
        self.kept = Vec::new();
        self.waiting.clear();
        self.stage = Stage::Header;
        self.awaited = 0;
        (self.stalled, self.paused) = (false, false);
    }
}
