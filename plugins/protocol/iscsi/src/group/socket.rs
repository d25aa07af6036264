//! One nonblocking socket, and how it reads and writes.

use crate::connection::{Inbox, Outbox};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

/// Parts of what is sent with one system call.
const SLICES: usize = 64;
/// Bytes read in one round at most, so that one connection does not hold up the others.
const ROUND_LEN: usize = 256 << 10;

/// A socket that is watched edge-triggered.
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

    /// The socket, for another thread.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The system says that something has changed.
    pub fn changed(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether a read could bring something.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.readable && !self.is_broken
    }

    /// Whether a write could take something.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable && !self.is_broken
    }

    /// Whether it is of no use any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Reads once; how many bytes came into the inbox's room.
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

    /// Sends what the socket takes; whether it took something.
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
