//! What may stand between a socket and its user.

use rustix::net::{RecvFlags, SendFlags};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A nonblocking socket without anything in between.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Receives what is there, into the pieces in order; 0 at the end of what the peer sends.
    ///
    /// # Errors
    /// As readv(2) tells them; `WouldBlock` when there is nothing.
    pub fn read(&mut self, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match pieces {
            // One piece costs the kernel less this way.
            [piece] => Ok(rustix::net::recv(&self.0, &mut **piece, RecvFlags::DONTWAIT)?.0),
            pieces => Ok(rustix::io::readv(&self.0, pieces)?),
        }
    }

    /// Sends what the socket takes of the pieces in order. `has_more`: more follows at once, so that a packet may wait for it.
    ///
    /// # Errors
    /// As sendmsg(2) tells them; `WouldBlock` when it takes nothing.
    pub fn write(&mut self, pieces: &[IoSlice<'_>], has_more: bool) -> io::Result<usize> {
        let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if has_more {
            flags |= SendFlags::MORE;
        }
        let mut control = rustix::net::SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(&self.0, pieces, &mut control, flags)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A place for TLS: turns the bytes of the user into those of the wire and back. A stream calls it in place of its socket.
///
/// Both directions may read and write the socket, such as for a handshake. `WouldBlock` of the socket is passed on.
pub trait Layer: fmt::Debug + Send + 'static {
    /// As [`Socket::read`], for the user's bytes.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidData` for what breaks the layer's protocol: the connection ends.
    fn read(&mut self, socket: &mut Socket, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// As [`Socket::write`], for the user's bytes. What it has taken and not sent it sends with [`flush`](Self::flush).
    ///
    /// # Errors
    /// As `read`.
    fn write(
        &mut self,
        socket: &mut Socket,
        pieces: &[IoSlice<'_>],
        has_more: bool,
    ) -> io::Result<usize>;

    /// Sends what it holds; whether nothing is left.
    ///
    /// # Errors
    /// As `read`, but for `WouldBlock`.
    fn flush(&mut self, socket: &mut Socket) -> io::Result<bool>;

    /// Whether it holds bytes for the user that no descriptor tells of.
    fn has_input(&self) -> bool;

    /// Says goodbye in the layer's own way.
    fn end(&mut self, socket: &mut Socket);
}

/// Whether the call may be made again later.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
