//! One thread's connections.
//!
//! Every round reads from each connection. This works for a few connections; `nvmf-tcp` shows how to serve thousands. A
//! round ends with `flush`, after the target has returned its completed requests.

use crate::Unix;
use crate::frame::{self, DATA_LEN_MAX, HEAD_LEN};
use drivebay_sdk::nvmf::transport::{Group, Qpair, Request};
use drivebay_sdk::prelude::*;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Maximum number of commands of one connection that the target has.
pub const DEPTH: usize = 128;
/// Length of one piece of data, in bytes.
const PIECE_LEN: u32 = 64 << 10;
/// Maximum length of one read, in bytes.
const READ_LEN: usize = 64 << 10;
/// Maximum length of received data that was not lent yet, in bytes: one complete frame.
const INBOX_MAX: usize = HEAD_LEN + DATA_LEN_MAX as usize;

/// One thread's part of the transport.
#[derive(Debug)]
pub struct Lanes {
    /// Readable when a connection has an event. The thread sleeps on it.
    epoll: OwnedFd,
    lanes: Vec<Option<Lane>>,
    scratch: Vec<u8>,
    /// Whether a command waits for memory.
    is_short: bool,
}

/// One connection. Its key is its index.
#[derive(Debug)]
struct Lane {
    /// `None` once the connection is closed.
    stream: Option<UnixStream>,
    qpair: Qpair<()>,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Requests that are free for the next commands.
    free: Vec<Request<()>>,
    lent: usize,
    /// Whether to close the connection when the outbox is sent.
    is_closing: bool,
    waits_for_room: bool,
}

impl Group for Lanes {
    type Transport = Unix;
    type Body = ();

    fn open((): &()) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        Ok(Self { epoll, lanes: Vec::new(), scratch: vec![0; READ_LEN], is_short: false })
    }

    fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn add(&mut self, stream: UnixStream, qpair: Qpair<()>) -> Result<usize> {
        let free = self.lanes.iter().position(Option::is_none);
        let key = free.unwrap_or(self.lanes.len());
        let data = EventData::new_u64(key as u64);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN).map_err(std::io::Error::from)?;
        self.lanes.resize_with(self.lanes.len().max(key + 1), || None);
        self.lanes[key] = Some(Lane {
            stream: Some(stream),
            qpair,
            inbox: Vec::new(),
            outbox: Vec::new(),
            free: Vec::new(),
            lent: 0,
            is_closing: false,
            waits_for_room: false,
        });
        Ok(key)
    }

    fn poll(&mut self) -> bool {
        let mut did = false;
        self.is_short = false;
        for lane in self.lanes.iter_mut().flatten() {
            match lane.receive(&mut self.scratch) {
                Ok(received) => did |= received,
                Err(Ended) => lane.hang_up(&self.epoll),
            }
            self.is_short |= lane.lend(&self.epoll);
        }
        did
    }

    fn completed(&mut self, key: usize, mut request: Request<()>) {
        let Some(Some(lane)) = self.lanes.get_mut(key) else { return };
        let len = request.response_len();
        lane.outbox.extend(len.to_le_bytes());
        lane.outbox.extend([0; 4]);
        lane.outbox.extend(request.response());
        for piece in request.data(0, len) {
            lane.outbox.extend_from_slice(piece);
        }
        request.release(); // frees the memory; the request is used again
        lane.free.push(request);
        lane.lent -= 1;
    }

    fn connected(&mut self, _key: usize, _qid: u16, _size: u16, _sq_flow_control: bool) {}

    fn close(&mut self, key: usize) {
        if let Some(Some(lane)) = self.lanes.get_mut(key) {
            lane.is_closing = true;
        }
    }

    fn free(&mut self, key: usize) {
        if let Some(place) = self.lanes.get_mut(key) {
            *place = None;
        }
    }

    fn flush(&mut self) -> bool {
        let mut did = false;
        for (key, lane) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            did |= lane.send(&self.epoll, key);
            if lane.is_closing && lane.outbox.is_empty() {
                lane.hang_up(&self.epoll);
            }
        }
        did
    }

    // The epoll is level-triggered, so data that has already arrived ends the sleep at once.
    fn prepare_sleep(&mut self) -> bool {
        self.is_short
    }

    fn next_ns(&self) -> u64 {
        u64::MAX
    }
}

/// The peer has disconnected, or does not speak this protocol.
struct Ended;

impl Lane {
    /// Reads once, if there is room.
    fn receive(&mut self, scratch: &mut [u8]) -> Result<bool, Ended> {
        let room = INBOX_MAX.saturating_sub(self.inbox.len()).min(scratch.len());
        let (Some(stream), true) = (&mut self.stream, room > 0) else { return Ok(false) };
        match stream.read(&mut scratch[..room]) {
            Ok(0) => Err(Ended),
            Ok(len) => {
                self.inbox.extend_from_slice(&scratch[..len]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Ended),
        }
    }

    /// Lends the complete commands to the target. Returns whether a command waits for memory.
    fn lend(&mut self, epoll: &OwnedFd) -> bool {
        let mut taken = 0;
        let mut is_short = false;
        while self.lent < DEPTH && !self.is_closing && self.stream.is_some() {
            let before = self.inbox.len() - taken;
            let (frame, rest) = match frame::first(&self.inbox[taken..]) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(frame::Malformed) => {
                    warn!("a connection was closed, because it sent an invalid frame");
                    return self.fail(epoll);
                }
            };
            let mut request =
                self.free.pop().unwrap_or_else(|| Request::new((), PIECE_LEN, DATA_LEN_MAX));
            if !request.obtain(frame.len) {
                self.free.push(request);
                is_short = true;
                break;
            }
            request.begin(frame.command);
            request.set_transfer(frame.transfer, frame.len);
            fill(&mut request, frame.data);
            taken += before - rest.len();
            self.lent += 1;
            self.qpair.exec(request);
        }
        self.inbox.drain(..taken);
        is_short
    }

    fn fail(&mut self, epoll: &OwnedFd) -> bool {
        self.hang_up(epoll);
        false
    }

    /// Sends what the socket accepts. If data is left, makes the epoll descriptor report when the socket accepts more.
    fn send(&mut self, epoll: &OwnedFd, key: usize) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let sent = match self.outbox.is_empty() {
            true => 0,
            false => match stream.write(&self.outbox) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.hang_up(epoll);
                    return true;
                }
            },
        };
        self.outbox.drain(..sent);
        let waits = !self.outbox.is_empty();
        if waits != std::mem::replace(&mut self.waits_for_room, waits) {
            let flags = if waits { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let _ = epoll::modify(epoll, stream, EventData::new_u64(key as u64), flags);
        }
        sent > 0
    }

    /// Closes the socket and tells the target, which calls `free` once it has returned all requests.
    fn hang_up(&mut self, epoll: &OwnedFd) {
        if let Some(stream) = self.stream.take() {
            let _ = epoll::delete(epoll, &stream);
            drop(stream);
            self.qpair.disconnected();
        }
    }
}

/// Copies the data of a write into the request's memory.
fn fill(request: &mut Request<()>, data: &[u8]) {
    let mut done = 0;
    while done < data.len() {
        let place = request.data_mut(u32::try_from(done).unwrap_or(u32::MAX));
        let now = place.len().min(data.len() - done);
        if now == 0 {
            return; // never reached: the memory was obtained for this length
        }
        place[..now].copy_from_slice(&data[done..done + now]);
        done += now;
    }
}
