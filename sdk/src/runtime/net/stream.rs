//! One connection.

use super::address::{Address, of_system};
use super::connect::ready;
use super::layer::{Layer, Socket, is_transient};
use super::pieces::{InPiece, OutPiece};
use crate::error::{Error, Result};
use rustix::event::PollFlags;
use rustix::net::{Shutdown, sockopt};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Socket options of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sends small pieces without delay (`TCP_NODELAY`).
    pub no_delay: bool,
    /// TCP keep-alive: probes a peer that has been silent for the first duration, then three times at intervals of the second one; `None`
    /// = never.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Ends the connection when the peer has acknowledged no data for this long; zero = the system's default. TCP only.
    pub user_timeout: Duration,
    /// Size of the kernel's receive buffer in bytes; `None` = the system's default. Limited to what the system permits.
    pub receive_buffer: Option<usize>,
    /// Size of the kernel's send buffer in bytes; `None` = the system's default.
    pub send_buffer: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: Some((Duration::from_secs(30), Duration::from_secs(10))),
            user_timeout: Duration::ZERO,
            receive_buffer: None,
            send_buffer: None,
        }
    }
}

impl Options {
    /// Applies the options of a TCP socket.
    pub(super) fn apply_tcp(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        let socket = socket.as_fd();
        sockopt::set_tcp_nodelay(socket, self.no_delay)?;
        let timeout = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, timeout)?;
        sockopt::set_socket_keepalive(socket, self.keep_alive.is_some())?;
        if let Some((idle, interval)) = self.keep_alive {
            sockopt::set_tcp_keepidle(socket, idle)?;
            sockopt::set_tcp_keepintvl(socket, interval)?;
            sockopt::set_tcp_keepcnt(socket, 3)?;
        }
        Ok(())
    }

    /// Sets the buffer sizes. Call it before the socket listens or connects, because the TCP handshake fixes the window scale.
    pub(super) fn apply_buffers(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        if let Some(len) = self.receive_buffer.filter(|len| *len <= permitted("rmem_max")) {
            sockopt::set_socket_recv_buffer_size(socket.as_fd(), len)?;
        }
        if let Some(len) = self.send_buffer.filter(|len| *len <= permitted("wmem_max")) {
            sockopt::set_socket_send_buffer_size(socket.as_fd(), len)?;
        }
        Ok(())
    }
}

/// The largest size that the system permits. A request for more would fix the size at a value below the system's automatic maximum.
fn permitted(what: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/core/{what}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// A nonblocking connection. One thread uses it at a time. It may move to another thread before it is added to [`super::Sockets`].
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    layer: Option<Box<dyn Layer>>,
    is_readable: bool,
    is_writable: bool,
    /// The peer has closed its side, and the stream must be read to its end to find out.
    is_half_closed: bool,
    received: u64,
    sent: u64,
}

impl Stream {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            socket: Socket::new(fd),
            layer: None,
            is_readable: true,
            is_writable: true,
            is_half_closed: false,
            received: 0,
            sent: 0,
        }
    }

    /// Makes a stream from one end of a socket pair, or from another connected socket of this process.
    ///
    /// # Errors
    /// When the socket cannot be set to nonblocking.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from)?;
        Ok(Self::new(fd))
    }

    /// Puts a layer, such as TLS, between the socket and its user.
    pub fn set_layer(&mut self, layer: Box<dyn Layer>) {
        self.layer = Some(layer);
    }

    /// The address at this end.
    ///
    /// # Errors
    /// The errors of getsockname(2).
    pub fn local_address(&self) -> Result<Address> {
        of_system(rustix::net::getsockname(&self.socket).map_err(io::Error::from)?)
    }

    /// The address at the other end.
    ///
    /// # Errors
    /// `ENOTCONN` when the peer has already disconnected.
    pub fn peer_address(&self) -> Result<Address> {
        let address = rustix::net::getpeername(&self.socket).map_err(io::Error::from)?;
        address.map_or_else(|| Ok(Address::Unix(Default::default())), of_system)
    }

    /// Number of bytes received and sent, as the user sees them.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// Whether a read may return data.
    #[inline]
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.is_readable || self.layer.as_ref().is_some_and(|layer| layer.has_input())
    }

    /// Whether a write may accept data.
    #[inline]
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Records changes that the system has reported.
    #[inline]
    pub(super) fn changed(&mut self, readable: bool, writable: bool, closed: bool) {
        self.is_readable |= readable || closed;
        self.is_writable |= writable;
        self.is_half_closed |= closed;
    }

    /// Reads available data into the pieces in order. `Some(0)` = the peer has ended its side, `None` = no data is available now.
    ///
    /// # Errors
    /// When the connection is lost.
    #[inline]
    pub fn read(&mut self, pieces: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        let room: usize = pieces.iter().map(|piece| piece.len()).sum();
        let read = match &mut self.layer {
            None => self.socket.read(pieces),
            Some(layer) => layer.read(&mut self.socket, pieces),
        };
        match read {
            Ok(len) => {
                // A short read has emptied the socket, and the system reports later data again. A layer may read in any other way.
                self.is_readable = len == room || self.is_half_closed || self.layer.is_some();
                self.received += len as u64;
                Ok(Some(len))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends the pieces in order, as far as the socket accepts them. Returns the number of accepted bytes. `has_more`: the caller writes
    /// again at once.
    ///
    /// # Errors
    /// When the connection is lost.
    #[inline]
    pub fn write(&mut self, pieces: &[IoSlice<'_>], has_more: bool) -> io::Result<usize> {
        let written = match &mut self.layer {
            None => self.socket.write(pieces, has_more),
            Some(layer) => layer.write(&mut self.socket, pieces, has_more),
        };
        match written {
            Ok(len) => {
                self.sent += len as u64;
                Ok(len)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_writable = false;
                Ok(0)
            }
            Err(error) if is_transient(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// As [`read`](Self::read), into memory given by address. A [`Layer`] works on copies.
    ///
    /// # Errors
    /// When the connection is lost.
    #[inline]
    pub fn read_pieces(&mut self, pieces: &mut [InPiece<'_>]) -> io::Result<Option<usize>> {
        if self.layer.is_none() {
            return self.read(InPiece::as_slices(pieces));
        }
        let room = pieces.iter().map(InPiece::len).sum::<usize>().min(LAYER_LEN);
        let mut bytes = vec![0; room];
        let read = self.read(&mut [IoSliceMut::new(&mut bytes)])?;
        InPiece::fill(pieces, bytes.get(..read.unwrap_or(0)).unwrap_or_default());
        Ok(read)
    }

    /// As [`write`](Self::write), from memory given by address. A [`Layer`] works on copies.
    ///
    /// # Errors
    /// When the connection is lost.
    #[inline]
    pub fn write_pieces(&mut self, pieces: &[OutPiece<'_>], has_more: bool) -> io::Result<usize> {
        if self.layer.is_none() {
            return self.write(OutPiece::as_slices(pieces), has_more);
        }
        self.write(&[IoSlice::new(&OutPiece::copy(pieces))], has_more)
    }

    /// Sends the bytes that a layer has. Returns whether none are left, which is always so without a layer.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn flush(&mut self) -> io::Result<bool> {
        match &mut self.layer {
            None => Ok(true),
            Some(layer) => layer.flush(&mut self.socket),
        }
    }

    /// Ends this side of the connection: the peer can read what was sent, then reaches the end. Reading remains possible.
    pub fn shutdown_write(&mut self) {
        self.end_layer();
        // An error means that the peer has already disconnected.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Ends both directions. Dropping the stream closes the descriptor.
    pub fn shutdown(&mut self) {
        self.end_layer();
        // An error means that the peer has already disconnected.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    fn end_layer(&mut self) {
        if let Some(layer) = &mut self.layer {
            layer.end(&mut self.socket);
        }
    }

    /// Fills `bytes`, for the start of a connection. Do not use it on the data path, or while the stream is in [`super::Sockets`].
    ///
    /// # Errors
    /// `EPIPE` when the peer ends its side before that, or an error when the connection is lost.
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.read(&mut [IoSliceMut::new(rest)])? {
                Some(0) => return Err(Error::new(EPIPE, "the peer has closed the connection")),
                Some(len) => rest = rest.get_mut(len..).unwrap_or_default(),
                None => {
                    ready(self.socket.as_fd(), PollFlags::IN).await?;
                    self.is_readable = true;
                }
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`, for the start of a connection. Do not use it on the data path, or while the stream is in
    /// [`super::Sockets`].
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = self.write(&[IoSlice::new(rest)], false)?;
            rest = rest.get(len..).unwrap_or_default();
            if len == 0 {
                ready(self.socket.as_fd(), PollFlags::OUT).await?;
                self.is_writable = true;
            }
        }
        while !self.flush()? {
            ready(self.socket.as_fd(), PollFlags::OUT).await?;
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Maximum number of bytes read through a layer at once.
const LAYER_LEN: usize = 64 << 10;

/// The peer has closed the connection.
const EPIPE: i32 = 32;

/// Returns the socket's pending error, such as that of a failed connect.
pub(super) fn pending_error(socket: impl AsFd) -> Result<()> {
    match sockopt::socket_error(socket.as_fd()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) | Err(error) => {
            Err(Error::new(error.raw_os_error(), io::Error::from(error).to_string()))
        }
    }
}

/// Whether the system is out of descriptors or memory.
pub(super) fn is_exhausted(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}
