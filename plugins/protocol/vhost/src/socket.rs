//! vhost-user messages on a Unix socket: bytes, and the descriptors that come with them.

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

/// Maximum number of bytes of one read. The descriptors of a message come with its first byte, so a read never goes beyond the end of a
/// message.
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
    /// The descriptors that came with it.
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
    /// Wraps an accepted connection.
    ///
    /// # Errors
    /// The error of making it nonblocking.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, bytes: Vec::new(), fds: Vec::new() })
    }

    /// Receives a message. Returns `None` when a part of it is missing.
    ///
    /// # Errors
    /// [`End`]: the connection cannot be used any more.
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

    /// The number of missing bytes: first those of the header, then those of the payload.
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

    /// Receives at most `wanted` bytes. Returns whether there were any.
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

    /// Answers a request, with a descriptor if there is one.
    ///
    /// # Errors
    /// [`End`]. An answer is far shorter than a socket's buffer, so a VMM that lets the buffer fill up has hung or is hostile.
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

/// Reports on the channel of the device that the configuration space has changed. If the channel is full, the VMM has not read
/// earlier reports yet, and reads the newest configuration after them.
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
