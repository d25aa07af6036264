//! Receives what the client sends: requests, and the data of writes.

use super::{Connection, Phase};
use drivebay_sdk::runtime::net::Stream;
use drivebay_spec_nbd::transmission::Request;
use std::io::{self, ErrorKind, IoSliceMut};

/// Maximum number of requests in one turn, so that other connections get theirs.
const BURST: usize = 64;
/// Length of the inbox, in bytes.
const INBOX_LEN: usize = 16 << 10;

/// Why a connection stopped receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The socket has nothing more to read.
    Input,
    /// It waits until I/O ends, or until the client takes replies.
    Room,
    /// It continues in the next turn: it used up this one, or it waits for memory.
    Turn,
}

/// Bytes that were received but not used yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The room for the next bytes.
    fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(INBOX_LEN, 0);
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Fills `to` as far as there are bytes. Returns the number of bytes.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
        let from = self.bytes();
        let len = from.len().min(to.len());
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        self.consume(len);
        len
    }

    /// Throws away up to `len` bytes. Returns the number of bytes.
    pub(super) fn skip(&mut self, len: u64) -> u64 {
        let here = self.bytes().len();
        let skipped = usize::try_from(len).unwrap_or(usize::MAX).min(here);
        self.consume(skipped);
        skipped as u64
    }

    /// Receives into `first`, then into the inbox. Returns the number of bytes in `first`, or `None` when the socket
    /// has nothing to read.
    ///
    /// # Errors
    /// `UnexpectedEof` when the client has closed its sending side.
    pub(super) fn receive(
        &mut self,
        stream: &mut Stream,
        first: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let first_len = first.len();
        let space = self.space();
        let got = if first_len == 0 {
            stream.read(&mut [IoSliceMut::new(space)])?
        } else {
            stream.read(&mut [IoSliceMut::new(first), IoSliceMut::new(space)])?
        };
        match got {
            None => Ok(None),
            Some(0) => Err(ErrorKind::UnexpectedEof.into()),
            Some(len) => {
                self.end += len.saturating_sub(first_len);
                Ok(Some(len.min(first_len)))
            }
        }
    }
}

impl Connection {
    /// Receives requests until there is a reason to stop.
    ///
    /// # Errors
    /// The client broke the protocol or left in the middle of a request, or the connection failed.
    pub(super) fn receive(&mut self, stream: &mut Stream) -> io::Result<Stop> {
        for _ in 0..BURST {
            if self.begun.is_some() {
                if let Some(stop) = self.go_on(stream)? {
                    return Ok(stop);
                }
                continue;
            }
            if !self.has_room() {
                return Ok(Stop::Room);
            }
            let parsed = Request::parse(self.framing, self.inbox.bytes());
            let parsed = parsed.map_err(|why| io::Error::new(ErrorKind::InvalidData, why))?;
            if let Some(request) = parsed {
                self.inbox.consume(self.framing.request_len());
                self.begin(request)?;
                if self.phase != Phase::Open {
                    return Ok(Stop::Input);
                }
                continue;
            }
            let is_between = self.inbox.bytes().is_empty();
            match self.inbox.receive(stream, &mut []) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Stop::Input),
                // The client sends no more requests, but may still read replies.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && is_between => {
                    self.phase = Phase::Draining;
                    return Ok(Stop::Input);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Stop::Turn)
    }
}
