//! A nonblocking socket of a connection.

use crate::connection::{Inbox, Outbox};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

/// Maximum number of slices of one write.
const SLICES: usize = 64;
/// Maximum number of bytes read in one round, so that a connection does not hold up the others.
const ROUND_LEN: usize = 256 << 10;

/// A nonblocking socket that remembers edge-triggered events.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    is_broken: bool,
}

impl Socket {
    /// A nonblocking socket.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, readable: true, writable: true, is_broken: false }
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Releases the socket.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Records events of the epoll.
    pub fn changed(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether a read may return bytes.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.readable && !self.is_broken
    }

    /// Whether a write may accept bytes.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable && !self.is_broken
    }

    /// Whether the connection is closed or has failed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Reads once into the inbox's room. Returns the number of bytes.
    pub fn read(&mut self, inbox: &mut Inbox) -> usize {
        let room = inbox.room();
        let len = room.len().min(ROUND_LEN);
        let Some(place) = room.get_mut(..len) else { return 0 };
        match self.stream.read(place) {
            Ok(0) => self.is_broken = true,
            Ok(len) => return len,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => self.readable = false,
                ErrorKind::Interrupted => {}
                _ => self.is_broken = true,
            },
        }
        0
    }

    /// Sends as much as the socket accepts. Returns whether it accepted any bytes.
    pub fn send<B: AsRef<[u8]>>(&mut self, outbox: &mut Outbox<B>) -> bool {
        let mut did = false;
        while self.is_writable() && !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = outbox.slices(&mut slices);
            match self.stream.write_vectored(slices.get(..count).unwrap_or_default()) {
                Ok(len) => {
                    outbox.sent(len);
                    did = true;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => self.is_broken = true,
                },
            }
        }
        did
    }
}
