//! One thread's connections: one epoll, one round of receiving and sending.
//!
//! A round looks at the sockets once (edge-triggered, without waiting), receives from those that are readable,
//! and, after the target had its say, sends everything that is ready with one system call a connection.

use crate::Tcp;
use crate::connection::{Carrier, Connection, Inbox, Phase, Target};
use crate::options::Settings;
use crate::socket::Socket;
use drivebay_sdk::buf::{self, Wait};
use drivebay_sdk::nvmf::transport::{Group, Qpair, Request, Transfer};
use drivebay_sdk::{Result, thread};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

#[cfg(test)]
mod tests;

/// Sockets looked at in one round.
const EVENTS: usize = 64;
/// How long a connection may take until the target has accepted it as a queue, in nanoseconds.
const HANDSHAKE_WAIT_NS: u64 = 30_000_000_000;
/// How long a peer may take to read the last bytes and to close, in nanoseconds.
const END_WAIT_NS: u64 = 5_000_000_000;

/// How long a command that needs several pieces of memory waits when there is one, but not enough, in nanoseconds.
const PIECES_WAIT_NS: u64 = 1_000_000;

/// A request of TCP: its body is its slot.
pub(crate) type Lent = Request<u16>;

impl Carrier for Lent {
    fn slot(&self) -> u16 {
        *self.body()
    }
    fn begin(&mut self, command: &[u8; 64]) {
        Request::begin(self, command);
    }
    fn obtain(&mut self, len: u32) -> bool {
        Request::obtain(self, len)
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

/// The target, as one connection reaches it.
struct Lender<'a> {
    qpair: &'a Qpair<u16>,
    settings: Settings,
}

impl Target<Lent> for Lender<'_> {
    fn make(&mut self, slot: u16) -> Lent {
        Request::new(slot, self.settings.piece_len, self.settings.limits.io_len)
    }
    fn exec(&mut self, request: Lent) {
        self.qpair.exec(request);
    }
}

/// A connection and what the target calls it.
#[derive(Debug)]
struct Served {
    socket: Socket<Lent>,
    qpair: Qpair<u16>,
    /// In the list of those that have something to do.
    is_active: bool,
    /// The last bytes are on their way.
    is_ending: bool,
    deadline_ns: u64,
    /// Its place in the queue for memory, while commands wait for some.
    waits: Option<Wait>,
}

/// One thread's connections.
pub(crate) struct TcpGroup {
    epoll: OwnedFd,
    settings: Settings,
    events: Vec<epoll::Event>,
    /// Where all connections receive, one after the other.
    inbox: Inbox,
    served: Vec<Option<Box<Served>>>,
    free: Vec<usize>,
    active: Vec<usize>,
    /// Those whose turn for memory has come.
    fed: Rc<RefCell<Vec<usize>>>,
    /// When to look again for memory of several pieces; `u64::MAX` = never.
    pieces_ns: u64,
    /// The earliest deadline, or an earlier time.
    deadline_ns: u64,
}

impl fmt::Debug for TcpGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpGroup").field("served", &self.served).finish_non_exhaustive()
    }
}

impl Group for TcpGroup {
    type Transport = Tcp;
    type Body = u16;

    fn open(settings: &Settings) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        Ok(Self {
            epoll,
            settings: *settings,
            events: Vec::with_capacity(EVENTS),
            inbox: Inbox::new(),
            served: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            fed: Rc::default(),
            pieces_ns: u64::MAX,
            deadline_ns: u64::MAX,
        })
    }

    fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn add(&mut self, stream: TcpStream, qpair: Qpair<u16>) -> Result<usize> {
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
        if let Some(place) = self.served.get_mut(key) {
            *place = Some(Box::new(Served {
                socket: Socket::new(stream, Connection::new(self.settings.limits)),
                qpair,
                is_active: true,
                is_ending: false,
                deadline_ns,
                waits: None,
            }));
        }
        self.active.push(key);
        Ok(key)
    }

    fn poll(&mut self) -> bool {
        let mut did = self.look() | self.feed();
        if self.active.is_empty() {
            return did;
        }
        let now_ns = thread::now_ns();
        for key in &self.active {
            if let Some(Some(served)) = self.served.get_mut(*key) {
                let mut lender = Lender { qpair: &served.qpair, settings: self.settings };
                did |= served.socket.receive(&mut self.inbox, now_ns, &mut lender);
            }
        }
        did
    }

    fn completed(&mut self, key: usize, request: Lent) {
        self.with(key, |served| served.socket.connection.complete(request));
    }

    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool) {
        self.with(key, |served| {
            served.socket.connection.connected(qid, size, sq_flow_control);
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
            if served.has_ended() {
                served.hang_up(&self.epoll);
            } else if served.begins_to_end() {
                served.is_ending = true;
                served.deadline_ns = thread::now_ns().saturating_add(END_WAIT_NS);
                self.deadline_ns = self.deadline_ns.min(served.deadline_ns);
            }
            served.is_active = served.socket.has_work(sent);
            if !served.socket.connection.is_starving() {
                served.waits = None;
            } else if served.waits.is_none() && !served.wait(*key, &self.fed, self.settings) {
                self.pieces_ns = thread::now_ns().saturating_add(PIECES_WAIT_NS);
            }
            served.is_active
        });
        // Nobody was added meanwhile; the list keeps its memory.
        self.active = still;
        if self.deadline_ns != u64::MAX && thread::now_ns() >= self.deadline_ns {
            self.end_overdue(thread::now_ns());
        }
        did
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.active.is_empty() || !self.fed.borrow().is_empty()
    }

    fn next_ns(&self) -> u64 {
        self.deadline_ns.min(self.pieces_ns)
    }
}

impl TcpGroup {
    /// Asks which sockets have changed.
    fn look(&mut self) -> bool {
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

    /// Lets those go on whose turn for memory has come; whether there are any.
    fn feed(&mut self) -> bool {
        if self.pieces_ns != u64::MAX && thread::now_ns() >= self.pieces_ns {
            self.pieces_ns = u64::MAX;
            let starves =
                |served: &Served| served.socket.connection.is_starving() && served.waits.is_none();
            for (key, served) in self.served.iter().enumerate() {
                if served.as_deref().is_some_and(starves) {
                    self.fed.borrow_mut().push(key);
                }
            }
        }
        let mut did = false;
        loop {
            let Some(key) = self.fed.borrow_mut().pop() else { return did };
            did = true;
            self.with(key, |served| served.waits = None);
        }
    }

    /// Lets `change` change a connection, which has something to do then.
    fn with(&mut self, key: usize, change: impl FnOnce(&mut Served)) {
        if let Some(Some(served)) = self.served.get_mut(key) {
            change(served);
            if !served.is_active {
                served.is_active = true;
                self.active.push(key);
            }
        }
    }

    /// Ends the connections whose time is over.
    fn end_overdue(&mut self, now_ns: u64) {
        self.deadline_ns = u64::MAX;
        for served in self.served.iter_mut().flatten().filter(|served| served.socket.is_open()) {
            if served.deadline_ns <= now_ns {
                tracing::warn!("connection closed: the peer took too long");
                served.socket.connection.end();
                served.hang_up(&self.epoll);
            } else {
                self.deadline_ns = self.deadline_ns.min(served.deadline_ns);
            }
        }
    }
}

impl Served {
    /// Whether nothing is left to be said on the wire.
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

    /// Queues for memory for the first command that has none; `false` when there is a piece, but it needs several.
    fn wait(&mut self, key: usize, fed: &Rc<RefCell<Vec<usize>>>, settings: Settings) -> bool {
        let len = self.socket.connection.needs().clamp(1, settings.piece_len);
        let (fed, is_now) = (Rc::clone(fed), Rc::new(Cell::new(true)));
        let asked = Rc::clone(&is_now);
        self.waits = Some(buf::get_or_wait(len, move |_piece| {
            // The piece goes back: commands get all they need at once, or nothing.
            if !asked.replace(false) {
                fed.borrow_mut().push(key);
            }
        }));
        let waits = is_now.replace(false);
        if !waits {
            self.waits = None;
        }
        waits
    }

    /// Closes the socket, gives all memory back, and tells the target.
    fn hang_up(&mut self, epoll: &OwnedFd) {
        let Some(stream) = self.socket.close() else { return };
        // Fails when the system has forgotten the socket already, which is as good.
        let _ = epoll::delete(epoll, &stream);
        drop(stream);
        self.deadline_ns = u64::MAX;
        self.qpair.disconnected();
    }
}
