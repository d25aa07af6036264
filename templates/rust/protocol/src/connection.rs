//! One connection: receives requests, submits them to the bdev, and sends the responses.

use crate::wire::{self, DATA_LEN_MAX, HEAD_LEN};
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::prelude::*;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// Maximum number of requests in flight per connection.
const DEPTH: usize = 32;
/// Maximum length of one read, in bytes.
const READ_LEN: usize = 16 << 10;
/// Maximum length of received requests that have not started, in bytes.
const INBOX_MAX: usize = HEAD_LEN + DATA_LEN_MAX;
/// When this many bytes wait to be sent, no further request starts.
const OUTBOX_MAX: usize = 4 << 20;

/// One connection. It ends by dropping its socket; the connection is then kept until its I/O has completed.
#[derive(Debug)]
pub struct Connection {
    stream: Option<UnixStream>,
    inbox: Vec<u8>,
    shared: Rc<RefCell<Shared>>,
    waits_for_room: bool,
    /// Whether a request waits for memory.
    is_short: bool,
}

/// The part of a connection that its I/O in flight also uses.
#[derive(Debug, Default)]
struct Shared {
    outbox: Vec<u8>,
    in_flight: usize,
}

/// One I/O in flight: its memory, and the connection that gets the response.
struct InFlight {
    buf: Buf,
    tag: u32,
    is_read: bool,
    shared: Rc<RefCell<Shared>>,
}

impl AsMut<Buf> for InFlight {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

/// The I/O has completed.
fn io_done(io: Box<InFlight>, result: IoResult) {
    let mut shared = io.shared.borrow_mut();
    let is_answered_with_data = io.is_read && result.status.is_success();
    let data: &[u8] = if is_answered_with_data { &io.buf } else { &[] };
    wire::respond(&mut shared.outbox, io.tag, result.status.raw(), data);
    shared.in_flight -= 1;
}

impl Connection {
    /// Makes a connection from an accepted socket.
    ///
    /// # Errors
    /// When the system is out of a resource.
    pub fn new(stream: UnixStream, epoll: &OwnedFd) -> Result<Self> {
        stream.set_nonblocking(true)?;
        epoll::add(epoll, &stream, EventData::new_u64(0), EventFlags::IN)
            .map_err(std::io::Error::from)?;
        let shared = Rc::default();
        let inbox = Vec::new();
        Ok(Self { stream: Some(stream), inbox, shared, waits_for_room: false, is_short: false })
    }

    /// Receives, starts the complete requests, and sends responses. Returns whether it did work.
    pub fn round(&mut self, channel: &Channel, block_size: u32, epoll: &OwnedFd) -> bool {
        let received = self.receive();
        self.begin(channel, block_size);
        let sent = self.send(epoll);
        received || sent
    }

    /// Closes the socket. The system then removes it from the epoll.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Whether the socket is closed and no I/O is in flight.
    pub fn has_ended(&self) -> bool {
        self.stream.is_none() && self.shared.borrow().in_flight == 0
    }

    /// Whether the connection needs a round that no descriptor will report.
    pub fn has_work(&self) -> bool {
        self.is_short || (!self.waits_for_room && !self.shared.borrow().outbox.is_empty())
    }

    fn receive(&mut self) -> bool {
        let mut bytes = [0; READ_LEN];
        let room = INBOX_MAX.saturating_sub(self.inbox.len()).min(READ_LEN);
        let (Some(stream), true) = (&mut self.stream, room > 0) else { return false };
        match stream.read(&mut bytes[..room]) {
            Ok(len) if len > 0 => {
                self.inbox.extend_from_slice(&bytes[..len]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => self.hang_up(),
        }
        false
    }

    /// Submits the complete requests to the bdev, as many as the limits and the memory allow.
    fn begin(&mut self, channel: &Channel, block_size: u32) {
        let mut taken = 0;
        self.is_short = false;
        while self.stream.is_some() && self.has_room() {
            let before = self.inbox.len() - taken;
            let (request, rest) = match wire::first(&self.inbox[taken..], block_size) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(wire::Malformed) => {
                    warn!("a connection was closed, because it sent an invalid request");
                    self.stream = None;
                    break;
                }
            };
            // Every context has a buffer. A flush does not use it.
            let Some(mut buf) = buf::get(request.len.max(512)) else {
                self.is_short = true;
                break;
            };
            buf[..request.data.len()].copy_from_slice(request.data);
            let is_read = matches!(request.op, Op::Read(_));
            let (tag, shared) = (request.tag, Rc::clone(&self.shared));
            let (op, now) = (request.op, before - rest.len());
            self.shared.borrow_mut().in_flight += 1;
            let io = Box::new(InFlight { buf, tag, is_read, shared });
            channel.submit(op, IoFlags::NONE, io, io_done);
            taken += now;
        }
        self.inbox.drain(..taken);
    }

    fn has_room(&self) -> bool {
        let shared = self.shared.borrow();
        shared.in_flight < DEPTH && shared.outbox.len() < OUTBOX_MAX
    }

    /// Sends what the socket accepts. If data is left, makes the epoll descriptor report when the socket
    /// accepts more.
    fn send(&mut self, epoll: &OwnedFd) -> bool {
        let mut shared = self.shared.borrow_mut();
        let Some(stream) = &mut self.stream else { return false };
        let sent = if shared.outbox.is_empty() { Ok(0) } else { stream.write(&shared.outbox) };
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.stream = None;
                return true;
            }
        };
        shared.outbox.drain(..sent);
        let waits = !shared.outbox.is_empty();
        if waits != std::mem::replace(&mut self.waits_for_room, waits) {
            let flags = if waits { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let _ = epoll::modify(epoll, stream, EventData::new_u64(0), flags);
        }
        sent > 0
    }
}
