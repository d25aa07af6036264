//! The socket: sends and receives bytes, without a deadlock when both ends have much to send.
//!
//! Reads and writes block for at most [`SLICE`]. As long as output is pending, a step writes as much as the socket takes and then
//! reads what has arrived.

use crate::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SLICE: Duration = Duration::from_millis(20);
/// Length of one read, in bytes.
const READ_LEN: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    pub(crate) out: Vec<u8>,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        Ok(Self { stream, out: Vec::new(), input: vec![0; READ_LEN], start: 0, end: 0 })
    }

    /// Sets whether reads and writes return at once or block.
    pub(crate) fn set_polled(&self, polled: bool) -> Result<(), Error> {
        Ok(self.stream.set_nonblocking(polled)?)
    }

    /// The bytes that were read and not yet [consumed](Self::consume).
    pub(crate) fn input(&self) -> &[u8] {
        self.input.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.start = self.end.min(self.start.saturating_add(len));
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Writes as much as the socket takes, then reads what has arrived. Waits at most [`SLICE`] for each.
    ///
    /// `need`: how many bytes of input the caller is waiting for, so that the buffer can hold them.
    pub(crate) fn step(&mut self, need: usize) -> Result<(), Error> {
        self.write_some()?;
        self.read_some(need)
    }

    /// Writes all output, and reads in between so that the other end does not stop.
    pub(crate) fn flush(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            self.write_some()?;
            if self.out.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: "sending" });
            }
            let need = self.input().len() + READ_LEN;
            self.read_some(need)?;
        }
    }

    /// Writes as much as the socket takes. Waits at most [`SLICE`].
    pub(crate) fn write_some(&mut self) -> Result<(), Error> {
        let mut sent = 0;
        while let Some(rest) = self.out.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(Error::Io(ErrorKind::WriteZero.into())),
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The last bytes that the controller sent may say why it closed, so handle them first.
                Err(error) if is_gone(&error) => {
                    self.out.clear();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }

    fn read_some(&mut self, need: usize) -> Result<(), Error> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.input.len() < need {
            self.input.resize(need.next_multiple_of(READ_LEN), 0);
        }
        let Some(place) = self.input.get_mut(self.end..).filter(|place| !place.is_empty()) else {
            return Ok(());
        };
        match self.stream.read(place) {
            Ok(0) => Err(Error::Io(ErrorKind::UnexpectedEof.into())),
            Ok(len) => {
                self.end += len;
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
