//! Layers between a socket and its user, such as TLS.

use rustix::net::{RecvFlags, SendFlags};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A nonblocking socket without a layer.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Receives the available data into the pieces in order. Returns 0 when the peer has ended its side.
    ///
    /// # Errors
    /// The errors of readv(2); `WouldBlock` when no data is available.
    pub fn read(&mut self, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match pieces {
            // For one piece, recv costs the kernel less than readv.
            [piece] => Ok(rustix::net::recv(&self.0, &mut **piece, RecvFlags::DONTWAIT)?.0),
            pieces => Ok(rustix::io::readv(&self.0, pieces)?),
        }
    }

    /// Sends the pieces in order, as far as the socket accepts them. `has_more`: the caller sends more at once, so the system may hold a
    /// packet back.
    ///
    /// # Errors
    /// The errors of sendmsg(2); `WouldBlock` when the socket accepts nothing.
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

/// A layer such as TLS: it converts between the user's bytes and those on the wire. A stream calls the layer instead of the socket.
///
/// Both directions may read and write the socket, for example during a handshake. The layer passes `WouldBlock` of the socket on.
pub trait Layer: fmt::Debug + Send + 'static {
    /// As [`Socket::read`], for the user's bytes.
    ///
    /// # Errors
    /// The errors of the socket. `InvalidData` when the peer violates the layer's protocol; the connection then ends.
    fn read(&mut self, socket: &mut Socket, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// As [`Socket::write`], for the user's bytes. [`flush`](Self::flush) sends bytes that the layer has accepted but not sent.
    ///
    /// # Errors
    /// As `read`.
    fn write(
        &mut self,
        socket: &mut Socket,
        pieces: &[IoSlice<'_>],
        has_more: bool,
    ) -> io::Result<usize>;

    /// Sends the bytes that the layer has. Returns whether none are left.
    ///
    /// # Errors
    /// The errors of `read`, except `WouldBlock`.
    fn flush(&mut self, socket: &mut Socket) -> io::Result<bool>;

    /// Whether the layer has bytes for the user. The descriptor does not report these.
    fn has_input(&self) -> bool;

    /// Ends the layer's protocol, such as with TLS's close_notify.
    fn end(&mut self, socket: &mut Socket);
}

/// Whether the caller may try again later.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
