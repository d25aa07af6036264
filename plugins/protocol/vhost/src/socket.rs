//! vhost-user messages on a Unix socket: bytes, and the descriptors that travel beside them.

use drivebay_sdk::tracing;
use drivebay_spec_vhost::message::{
    BACKEND_CONFIG_CHANGE, FDS_MAX, HEADER_LEN, Header, PAYLOAD_MAX,
};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Bytes that are received at a time. Less than a message never shows two: the descriptors of a message come with its
/// first byte, and a read never goes beyond the message it is in.
const WHOLE_MAX: usize = HEADER_LEN + PAYLOAD_MAX;

/// A connection to a VMM.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    /// The message that is being received.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A whole message.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What came beside it.
    pub fds: Vec<OwnedFd>,
}

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The VMM closed it.
    Closed,
    /// It broke the protocol, or the socket failed.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the VMM closed it",
            Self::Failed(why) => why,
        })
    }
}

impl Socket {
    /// Serves an accepted connection.
    ///
    /// # Errors
    /// When it cannot be set to not block.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, bytes: Vec::new(), fds: Vec::new() })
    }

    /// Receives a message; `None` when it is not all there yet.
    ///
    /// # Errors
    /// [`End`]: the connection is of no more use.
    pub fn receive(&mut self) -> Result<Option<Message>, End> {
        loop {
            let wanted = self.wanted()?;
            if wanted == 0 {
                return self.take().map(Some);
            }
            if !self.receive_some(wanted)? {
                return Ok(None);
            }
        }
    }

    /// How many bytes the message still needs: those of its header first.
    fn wanted(&self) -> Result<usize, End> {
        let Some(header) = self.bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(HEADER_LEN - self.bytes.len());
        };
        let header = Header::parse(*header).map_err(|error| End::Failed(error.to_string()))?;
        Ok(HEADER_LEN + header.len as usize - self.bytes.len())
    }

    fn take(&mut self) -> Result<Message, End> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let fds = std::mem::take(&mut self.fds);
        let payload = bytes.split_off(HEADER_LEN.min(bytes.len()));
        let header = bytes.first_chunk().ok_or(End::Closed)?;
        let header = Header::parse(*header).map_err(|error| End::Failed(error.to_string()))?;
        Ok(Message { header, payload, fds })
    }

    /// Receives at most `wanted` bytes: whether there were any.
    fn receive_some(&mut self, wanted: usize) -> Result<bool, End> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let before = self.bytes.len();
        self.bytes.resize((before + wanted).min(WHOLE_MAX), 0);
        let place = self.bytes.get_mut(before..).unwrap_or_default();
        let received = rustix::net::recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(place)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let len = match &received {
            Ok(received) => received.bytes,
            Err(_) => 0,
        };
        self.bytes.truncate(before + len);
        match received {
            Ok(_) if len == 0 => return Err(End::Closed),
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::CONNRESET) => return Err(End::Closed),
            Err(error) => return Err(End::Failed(format!("receive: {error}"))),
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > FDS_MAX {
            return Err(End::Failed(format!("{} descriptors with one message", self.fds.len())));
        }
        Ok(true)
    }

    /// Answers a request, with a descriptor where it has one.
    ///
    /// # Errors
    /// [`End`]. An answer is far shorter than a socket's buffer: a VMM that lets it fill up is gone or hostile.
    pub fn answer(
        &self,
        request: u32,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), End> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header { request, needs_reply: false, is_reply: true, len }.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let pieces = [IoSlice::new(&header), IoSlice::new(payload)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(&self.stream, &pieces, &mut ancillary, flags) {
            Ok(sent) if sent == HEADER_LEN + payload.len() => Ok(()),
            Ok(_) => Err(End::Failed("the VMM does not read its answers".into())),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(End::Closed),
            Err(error) => Err(End::Failed(format!("send: {error}"))),
        }
    }
}

/// Tells a VMM on the device's own channel that the configuration space has changed. If the notice does not fit into the
/// channel, earlier ones are still unread, and the VMM will read the newest configuration with them.
pub fn tell_of_change(channel: impl AsFd) {
    let header =
        Header { request: BACKEND_CONFIG_CHANGE, needs_reply: false, is_reply: false, len: 0 };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::send(channel, &header.to_bytes(), flags);
    if let Err(error) = sent {
        tracing::debug!("a VMM was not told that the configuration has changed: {error}");
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
