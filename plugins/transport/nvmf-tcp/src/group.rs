//! The connections of one thread, with one epoll. In each round it receives from all of them and then sends.
//!
//! A round checks the sockets once (edge-triggered, without waiting) and receives from those that are readable.
//! After the target has answered, it sends everything that is ready, with one system call for each connection.

use crate::Tcp;
use crate::connection::{Carrier, Connection, Inbox, Phase, Target};
use crate::listen::Arrived;
use crate::options::Settings;
use crate::places::Place;
use crate::share::{self, Share, Shares, Taken};
use crate::socket::Socket;
use drivebay_sdk::buf::{self, Wait};
use drivebay_sdk::nvmf::transport::{Group, Qpair, Request, Transfer};
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{Result, thread};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

#[cfg(test)]
mod tests;

/// The maximum number of sockets that one round checks.
const EVENTS: usize = 64;
/// How long the target may take to accept a connection as a queue, in nanoseconds.
const HANDSHAKE_WAIT_NS: u64 = 30_000_000_000;
/// How long a peer may take to read the last bytes and to close, in nanoseconds.
const END_WAIT_NS: u64 = 5_000_000_000;

/// How long a command waits that needs several pieces of memory when not enough are free, in nanoseconds.
const PIECES_WAIT_NS: u64 = 1_000_000;

/// How often the group checks connections that wait for data from their hosts, in nanoseconds.
const DATA_PERIOD_NS: u64 = 1_000_000_000;
/// The maximum number of sockets closed in one round.
const CLOSED_AT_ONCE: usize = 32;
/// The maximum number of connections of a group that have not sent their first PDU. Beyond this, the oldest is closed for the
/// next one.
const SILENT_MAX: usize = 4096;

/// A request of this transport.
pub(crate) type Lent = Request<Held>;

/// The private part of a request: its slot, and the memory that it has taken from the peer's share of the pools.
#[derive(Debug)]
pub(crate) struct Held {
    slot: u16,
    piece_len: u32,
    share: Share,
    taken: Option<Taken>,
}

impl Held {
    fn release(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.share.give_back(taken);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

impl Carrier for Lent {
    fn slot(&self) -> u16 {
        self.body().slot
    }
    fn begin(&mut self, command: &[u8; 64]) {
        Request::begin(self, command);
    }
    fn obtain(&mut self, len: u32) -> bool {
        let held = self.body_mut();
        held.release();
        held.taken = held.share.take(len, held.piece_len);
        if held.taken.is_none() {
            return false;
        }
        let has_memory = Request::obtain(self, len);
        if !has_memory {
            self.body_mut().release();
        }
        has_memory
    }
    fn set_transfer(&mut self, from_host: bool, len: u32) {
        let transfer = match (len, from_host) {
            (0, _) => Transfer::None,
            (_, true) => Transfer::FromHost,
            (_, false) => Transfer::ToHost,
        };
        Request::set_transfer(self, transfer, len);
    }
    fn release(&mut self) {
        Request::release(self);
        self.body_mut().release();
    }
    fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]> {
        Request::data(self, offset, len)
    }
    fn data_mut(&mut self, offset: u32) -> &mut [u8] {
        Request::data_mut(self, offset)
    }
    fn response(&self) -> [u8; 16] {
        Request::response(self)
    }
    fn response_len(&self) -> u32 {
        Request::response_len(self)
    }
}

/// The target, as one connection uses it.
struct OneTarget<'a> {
    qpair: &'a Qpair<Held>,
    share: &'a Share,
    settings: Settings,
}

impl Target<Lent> for OneTarget<'_> {
    fn make(&mut self, slot: u16) -> Lent {
        let piece_len = self.settings.piece_len;
        let held = Held { slot, piece_len, share: self.share.clone(), taken: None };
        Request::new(held, piece_len, self.settings.limits.io_len)
    }
    fn exec(&mut self, request: Lent) {
        self.qpair.exec(request);
    }
}

/// A connection and the target's handle for it.
#[derive(Debug)]
struct Served {
    socket: Socket<Lent>,
    qpair: Qpair<Held>,
    peer: Option<SocketAddr>,
    share: Share,
    /// The connection's place in the limits. Dropping it releases the place.
    place: Option<Place>,
    /// The number of the connection, counted over all connections of the group.
    number: u64,
    /// Whether it is in the list of connections with work.
    is_active: bool,
    /// Whether the connection ends and only sends its remaining bytes.
    is_ending: bool,
    deadline_ns: u64,
    /// Its entry in the queue for memory, while commands wait for memory.
    waits: Option<Wait>,
}

/// One thread's connections.
pub(crate) struct TcpGroup {
    epoll: OwnedFd,
    settings: Settings,
    events: Vec<epoll::Event>,
    /// The buffer in which all connections receive, one after another.
    inbox: Inbox,
    served: Vec<Option<Box<Served>>>,
    free: Vec<usize>,
    /// Number of connections so far.
    count: u64,
    /// Connections that have not sent their first PDU, with their numbers, the oldest first.
    silent: VecDeque<(usize, u64)>,
    shares: Shares,
    active: Vec<usize>,
    /// Sockets to close. Closing takes long, and many connections may end at once.
    closing: Vec<TcpStream>,
    /// Connections whose turn for memory has come.
    resumed: Rc<RefCell<Vec<usize>>>,
    /// When to check again for memory in several pieces. `u64::MAX`: never.
    pieces_ns: u64,
    /// The earliest deadline, or a time before it.
    deadline_ns: u64,
    /// When to check again for data that hosts owe. `u64::MAX`: never.
    data_ns: u64,
}

impl fmt::Debug for TcpGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpGroup").field("served", &self.served).finish_non_exhaustive()
    }
}

impl Group for TcpGroup {
    type Transport = Tcp;
    type Body = Held;

    fn open(settings: &Settings) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        Ok(Self {
            epoll,
            settings: *settings,
            events: Vec::with_capacity(EVENTS),
            inbox: Inbox::new(),
            served: Vec::new(),
            free: Vec::new(),
            count: 0,
            silent: VecDeque::new(),
            shares: Shares::new(
                u32::try_from(thread::cores().count()).unwrap_or(1),
                share::pools(),
            ),
            active: Vec::new(),
            closing: Vec::new(),
            resumed: Rc::default(),
            pieces_ns: u64::MAX,
            deadline_ns: u64::MAX,
            data_ns: u64::MAX,
        })
    }

    fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn add(&mut self, arrived: Arrived, qpair: Qpair<Held>) -> Result<usize> {
        let Arrived { stream, peer, place } = arrived;
        let key = self.free.pop().unwrap_or_else(|| {
            self.served.push(None);
            self.served.len() - 1
        });
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(key as u64);
        if let Err(error) = epoll::add(&self.epoll, &stream, data, flags) {
            self.free.push(key);
            return Err(std::io::Error::from(error).into());
        }
        let deadline_ns = thread::now_ns().saturating_add(HANDSHAKE_WAIT_NS);
        self.deadline_ns = self.deadline_ns.min(deadline_ns);
        let unknown = IpAddr::from([0; 4]);
        let share = self.shares.of(peer.map_or(unknown, |peer| peer.ip().to_canonical()));
        self.count += 1;
        if let Some(entry) = self.served.get_mut(key) {
            *entry = Some(Box::new(Served {
                socket: Socket::new(stream, Connection::new(self.settings.limits)),
                qpair,
                peer,
                share,
                place,
                number: self.count,
                is_active: true,
                is_ending: false,
                deadline_ns,
                waits: None,
            }));
        }
        self.active.push(key);
        self.silent.push_back((key, self.count));
        self.close_silent();
        Ok(key)
    }

    fn poll(&mut self) -> bool {
        let mut did = self.poll_sockets() | self.resume_waiting();
        if self.active.is_empty() {
            return did;
        }
        let now_ns = thread::now_ns();
        for key in &self.active {
            if let Some(Some(served)) = self.served.get_mut(*key) {
                let Served { socket, qpair, share, .. } = &mut **served;
                let mut lender = OneTarget { qpair, share, settings: self.settings };
                did |= socket.receive(&mut self.inbox, now_ns, &mut lender);
            }
        }
        did
    }

    fn completed(&mut self, key: usize, request: Lent) {
        self.with(key, |served| served.socket.connection.complete(request));
    }

    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool) {
        let receive_room = self.settings.receive_room;
        self.with(key, |served| {
            served.socket.connection.connected(qid, size, sq_flow_control);
            if qid != 0 {
                served.share.is_for_io();
                served.socket.widen(receive_room);
            }
            if !served.is_ending {
                served.deadline_ns = u64::MAX;
            }
        });
    }

    fn close(&mut self, key: usize) {
        self.with(key, |served| served.socket.connection.close());
    }

    fn free(&mut self, key: usize) {
        if let Some(place) = self.served.get_mut(key)
            && place.take().is_some()
        {
            self.free.push(key);
        }
    }

    fn flush(&mut self) -> bool {
        let mut did = false;
        let active = std::mem::take(&mut self.active);
        let mut still = active;
        still.retain(|key| {
            let Some(Some(served)) = self.served.get_mut(*key) else { return false };
            let sent = served.socket.send();
            did |= sent;
            served.report_fault();
            if self.data_ns == u64::MAX && served.socket.connection.awaits_data() {
                self.data_ns = thread::now_ns().saturating_add(DATA_PERIOD_NS);
            }
            if served.has_ended() {
                served.hang_up(&self.epoll, &mut self.closing);
            } else if served.begins_to_end() {
                served.is_ending = true;
                served.deadline_ns = thread::now_ns().saturating_add(END_WAIT_NS);
                self.deadline_ns = self.deadline_ns.min(served.deadline_ns);
            }
            served.is_active = served.socket.has_work(sent);
            if !served.socket.connection.is_starving() {
                served.waits = None;
            } else if served.waits.is_none() && !served.wait(*key, &self.resumed, self.settings) {
                self.pieces_ns = thread::now_ns().saturating_add(PIECES_WAIT_NS);
            }
            served.is_active
        });
        // Put the list back, so that its memory is reused. No connection was added meanwhile.
        self.active = still;
        if self.deadline_ns != u64::MAX && thread::now_ns() >= self.deadline_ns {
            self.end_overdue(thread::now_ns());
        }
        if self.data_ns != u64::MAX && thread::now_ns() >= self.data_ns {
            self.end_those_who_owe_data(thread::now_ns());
        }
        did | self.close_some()
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.active.is_empty() || !self.closing.is_empty() || !self.resumed.borrow().is_empty()
    }

    fn next_ns(&self) -> u64 {
        self.deadline_ns.min(self.pieces_ns).min(self.data_ns)
    }
}

impl TcpGroup {
    /// Closes a few of the sockets that wait to be closed. Returns whether there were any.
    fn close_some(&mut self) -> bool {
        let begin = self.closing.len().saturating_sub(CLOSED_AT_ONCE);
        let mut did = false;
        for stream in self.closing.drain(begin..) {
            did = true;
            // An error means that the peer closed first.
            let _ = stream.shutdown(Shutdown::Both);
        }
        did
    }

    /// Gets the changes of all sockets, so that nothing that has arrived waits for a later round.
    fn poll_sockets(&mut self) -> bool {
        let mut did = false;
        for _ in 0..=self.served.len() / EVENTS {
            did |= self.poll_once();
            if self.events.len() < EVENTS {
                break;
            }
        }
        did
    }

    fn poll_once(&mut self) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        let space = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, space, Some(&NOW)).is_err() {
            return false;
        }
        for event in &self.events {
            let Ok(key) = usize::try_from(event.data.u64()) else { continue };
            let Some(Some(served)) = self.served.get_mut(key) else { continue };
            let flags = event.flags;
            let closed = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            served.socket.changed(
                flags.contains(EventFlags::IN),
                flags.contains(EventFlags::OUT),
                flags.intersects(closed),
            );
            if !served.is_active {
                served.is_active = true;
                self.active.push(key);
            }
        }
        !self.events.is_empty()
    }

    /// Continues connections whose turn for memory has come. Returns whether there are any.
    fn resume_waiting(&mut self) -> bool {
        if self.pieces_ns != u64::MAX && thread::now_ns() >= self.pieces_ns {
            self.pieces_ns = u64::MAX;
            let starves =
                |served: &Served| served.socket.connection.is_starving() && served.waits.is_none();
            for (key, served) in self.served.iter().enumerate() {
                if served.as_deref().is_some_and(starves) {
                    self.resumed.borrow_mut().push(key);
                }
            }
        }
        let mut did = false;
        loop {
            let Some(key) = self.resumed.borrow_mut().pop() else { return did };
            did = true;
            self.with(key, |served| served.waits = None);
        }
    }

    /// Calls `change` with a connection, which then counts as having work.
    fn with(&mut self, key: usize, change: impl FnOnce(&mut Served)) {
        if let Some(Some(served)) = self.served.get_mut(key) {
            change(served);
            if !served.is_active {
                served.is_active = true;
                self.active.push(key);
            }
        }
    }

    /// Ends the oldest connections that have sent nothing, while there are too many of them.
    fn close_silent(&mut self) {
        while self.silent.len() > SILENT_MAX {
            let Some((key, number)) = self.silent.pop_front() else { return };
            if let Some(Some(served)) = self.served.get_mut(key)
                && served.number == number
                && served.socket.is_open()
                && served.socket.connection.phase() == Phase::Handshake
            {
                served.end(
                    &self.epoll,
                    &mut self.closing,
                    "it has sent nothing, and too many connections have sent nothing",
                );
            }
        }
    }

    /// Ends connections whose hosts have not sent data that they announced or that an R2T requested.
    fn end_those_who_owe_data(&mut self, now_ns: u64) {
        self.data_ns = u64::MAX;
        for served in self.served.iter_mut().flatten().filter(|served| served.socket.is_open()) {
            let connection = &served.socket.connection;
            if connection.owes_data(now_ns) {
                served.end(
                    &self.epoll,
                    &mut self.closing,
                    "the host did not send the data of a command in time",
                );
            } else if connection.awaits_data() {
                self.data_ns = now_ns.saturating_add(DATA_PERIOD_NS);
            }
        }
    }

    /// Ends connections whose time is over.
    fn end_overdue(&mut self, now_ns: u64) {
        self.deadline_ns = u64::MAX;
        for served in self.served.iter_mut().flatten().filter(|served| served.socket.is_open()) {
            if served.deadline_ns <= now_ns {
                served.end(&self.epoll, &mut self.closing, "the host took too long");
            } else {
                self.deadline_ns = self.deadline_ns.min(served.deadline_ns);
            }
        }
    }
}

impl Served {
    /// Whether nothing is left to send.
    fn has_ended(&self) -> bool {
        match self.socket.connection.phase() {
            Phase::Ended => true,
            Phase::Closing => !self.socket.connection.has_output(),
            Phase::Handshake | Phase::Open | Phase::Terminating => false,
        }
    }

    fn begins_to_end(&self) -> bool {
        let phase = self.socket.connection.phase();
        matches!(phase, Phase::Closing | Phase::Terminating) && !self.is_ending
    }

    /// Queues for memory for the first command without memory. Returns `false` if a piece is free, but the command
    /// needs several.
    fn wait(&mut self, key: usize, resumed: &Rc<RefCell<Vec<usize>>>, settings: Settings) -> bool {
        let len = self.socket.connection.needs().clamp(1, settings.piece_len);
        let (resumed, is_now) = (Rc::clone(resumed), Rc::new(Cell::new(true)));
        let asked = Rc::clone(&is_now);
        self.waits = Some(buf::get_or_wait(len, move |_piece| {
            // The piece goes back, because a command gets either all the memory that it needs or none.
            if !asked.replace(false) {
                resumed.borrow_mut().push(key);
            }
        }));
        let waits = is_now.replace(false);
        if !waits {
            self.waits = None;
        }
        waits
    }

    /// Logs the host's violation of the protocol, once.
    fn report_fault(&mut self) {
        static FAULTS: Throttle = Throttle::new();
        if let Some(fault) = self.socket.connection.take_fault()
            && let Some(left_out) = FAULTS.admit()
        {
            let peer = self.peer_text();
            tracing::warn!("connection from {peer}: {fault} ({left_out} such lines left out)");
        }
    }

    fn peer_text(&self) -> String {
        self.peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string())
    }

    /// Ends the connection at once.
    fn end(&mut self, epoll: &OwnedFd, closing: &mut Vec<TcpStream>, why: &str) {
        static ENDED: Throttle = Throttle::new();
        if let Some(left_out) = ENDED.admit() {
            let peer = self.peer_text();
            tracing::warn!("connection from {peer} closed: {why} ({left_out} such lines left out)");
        }
        self.socket.connection.end();
        self.hang_up(epoll, closing);
    }

    /// Ends a connection: releases all memory and reports the end to the target. One of the next rounds closes the socket.
    fn hang_up(&mut self, epoll: &OwnedFd, closing: &mut Vec<TcpStream>) {
        self.place = None;
        let Some(stream) = self.socket.close() else { return };
        // This fails if the system has forgotten the socket already, which has the same effect.
        let _ = epoll::delete(epoll, &stream);
        closing.push(stream);
        self.deadline_ns = u64::MAX;
        self.qpair.disconnected();
    }
}
