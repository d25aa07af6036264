//! Sets up a session with a back end. The calls block, so they run on a worker.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::front::answer;
use drivebay_spec_vhost::message::{
    self, Config, F_PROTOCOL_FEATURES, HEADER_LEN, Header, MemoryRegion, Request, RingAddresses,
    RingFd, RingState, protocol,
};
use drivebay_spec_vhost::ring::feature;
use drivebay_virtio::Rings;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// How long a back end may take for an answer.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Protocol features that this front end uses.
const PROTOCOL: u64 = protocol::MQ | protocol::REPLY_ACK | protocol::CONFIG | protocol::BACKEND_REQ;

/// A connection to a back end, before the rings run.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    path: String,
    /// Protocol features of both sides.
    protocol: u64,
}

/// The features, number of queues and configuration space that a back end offers.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) features: u64,
    pub(crate) queues_max: u64,
    /// `None` when the back end does not have the protocol feature CONFIG.
    pub(crate) config: Option<Vec<u8>>,
}

/// The memory and the rings of a session.
pub(crate) struct Setup<'a> {
    pub(crate) features: u64,
    pub(crate) part: MemoryRegion,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) rings: Vec<RingSetup<'a>>,
}

/// A ring with its eventfds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingSetup<'a> {
    pub(crate) rings: Rings,
    pub(crate) call: &'a OwnedFd,
    pub(crate) kick: &'a OwnedFd,
}

impl Connection {
    /// Connects to a back end and asks for its offer, with `config_len` bytes of the configuration space if the back end has one.
    ///
    /// # Errors
    /// `EIO` with the reason.
    pub(crate) fn open(path: &str, config_len: usize) -> Result<(Self, Offer)> {
        let socket = connect(path).map_err(|error| failed(path, format!("connect: {error}")))?;
        let mut connection = Self { socket, path: path.to_owned(), protocol: 0 };
        let offer = connection.negotiate(config_len)?;
        Ok((connection, offer))
    }

    fn negotiate(&mut self, config_len: usize) -> Result<Offer> {
        let features = self.ask_number(&Request::GetFeatures)?;
        if features & feature::VERSION_1 == 0 {
            return Err(self.failed("the device is older than virtio 1.0"));
        }
        let offered = match features & F_PROTOCOL_FEATURES {
            0 => 0,
            _ => self.ask_number(&Request::GetProtocolFeatures)?,
        };
        self.protocol = offered & PROTOCOL;
        self.tell(&Request::SetProtocolFeatures(self.protocol), &[])?;
        let has_queues = self.protocol & protocol::MQ != 0;
        let queues_max = if has_queues { self.ask_number(&Request::GetQueueNum)? } else { 1 };
        self.tell(&Request::SetOwner, &[])?;
        let mut config = None;
        if self.protocol & protocol::CONFIG != 0 {
            let bytes = self.ask(&get_config(config_len))?;
            let cut_off = || self.failed("its configuration space is cut off");
            config = Some(answer::config(&bytes).ok_or_else(cut_off)?);
        }
        Ok(Offer { features, queues_max, config })
    }

    /// Gives memory and rings to the back end, and starts the rings. Returns the channel on which the back end reports changes, if it
    /// supports one.
    ///
    /// # Errors
    /// `EIO` with the reason.
    pub(crate) fn start(&self, setup: &Setup<'_>) -> Result<Option<OwnedFd>> {
        self.tell(&Request::SetFeatures(setup.features), &[])?;
        let mut channel = None;
        if self.protocol & protocol::BACKEND_REQ != 0 {
            let (ours, theirs) = socket_pair().map_err(|error| self.failed(error.to_string()))?;
            self.tell(&Request::SetBackendReqFd, &[theirs.as_fd()])?;
            channel = Some(ours);
        }
        self.tell(&Request::SetMemTable(vec![setup.part]), &[setup.fd])?;
        let is_packed = setup.features & feature::RING_PACKED != 0;
        for (index, ring) in (0..=u8::MAX).zip(&setup.rings) {
            self.start_ring(index, ring, is_packed)?;
        }
        for index in (0..).take(setup.rings.len()) {
            self.tell(&Request::SetVringEnable(RingState { index, num: 1 }), &[])?;
        }
        Ok(channel)
    }

    fn start_ring(&self, number: u8, ring: &RingSetup<'_>, is_packed: bool) -> Result<()> {
        let RingSetup { rings, call, kick } = ring;
        let index = number.into();
        let fd = RingFd { index: number, has_fd: true };
        let size = RingState { index, num: rings.size.into() };
        // A packed ring begins in the first lap of both sides, whose wrap counters are 1. virtio 1.3, section 2.8.1.
        let base = if is_packed { 0x8000_8000 } else { 0 };
        let addresses = RingAddresses {
            index,
            flags: 0,
            descriptors: rings.descriptors,
            used: rings.used,
            available: rings.available,
            log: 0,
        };
        self.tell(&Request::SetVringNum(size), &[])?;
        self.tell(&Request::SetVringBase(RingState { index, num: base }), &[])?;
        self.tell(&Request::SetVringAddr(addresses), &[])?;
        self.tell(&Request::SetVringCall(fd), &[call.as_fd()])?;
        self.tell(&Request::SetVringKick(fd), &[kick.as_fd()])
    }

    /// Returns the socket, for the running session.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends a request that has no answer. If the back end supports `REPLY_ACK`, waits until the request is done.
    fn tell(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        // SET_PROTOCOL_FEATURES itself negotiates REPLY_ACK.
        let is_early = matches!(request, Request::SetProtocolFeatures(_));
        let needs_reply = self.protocol & protocol::REPLY_ACK != 0 && !is_early;
        let number = self.send(request, needs_reply, fds)?;
        if needs_reply {
            let refused = self.receive(number)?;
            if answer::number(&refused) != Some(0) {
                return Err(self.failed(format!("it refuses {}", message::name(number))));
            }
        }
        Ok(())
    }

    fn ask(&self, request: &Request) -> Result<Vec<u8>> {
        let number = self.send(request, false, &[])?;
        self.receive(number)
    }

    fn ask_number(&self, request: &Request) -> Result<u64> {
        let number = self.send(request, false, &[])?;
        let payload = self.receive(number)?;
        answer::number(&payload).ok_or_else(|| {
            self.failed(format!("its answer to {} is not a number", message::name(number)))
        })
    }

    fn send(&self, request: &Request, needs_reply: bool, fds: &[BorrowedFd<'_>]) -> Result<u32> {
        let bytes = to_message(request, needs_reply);
        let (number, _) = request.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = rustix::net::sendmsg(
            &self.socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Ok(len) if len == bytes.len() => Ok(number),
            Ok(_) => Err(self.failed("it does not read its messages")),
            Err(error) => {
                Err(self.failed(format!("{} was not sent: {error}", message::name(number))))
            }
        }
    }

    fn receive(&self, number: u32) -> Result<Vec<u8>> {
        let mut header = [0; HEADER_LEN];
        self.receive_exact(number, &mut header)?;
        let header = Header::parse(header).map_err(|error| self.failed(error.to_string()))?;
        if header.request != number || !header.is_reply {
            let (got, wanted) = (message::name(header.request), message::name(number));
            return Err(self.failed(format!("it sent {got} instead of the answer to {wanted}")));
        }
        let mut payload = vec![0; header.len as usize];
        self.receive_exact(number, &mut payload)?;
        Ok(payload)
    }

    fn receive_exact(&self, number: u32, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let name = message::name(number);
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(rest)],
                &mut rustix::net::RecvAncillaryBuffer::default(),
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) if received.bytes == 0 => {
                    return Err(self.failed(format!(
                        "it closed the connection before its answer to {name} was complete"
                    )));
                }
                Ok(received) => rest = rest.get_mut(received.bytes..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let sec = ANSWER_LIMIT.as_secs();
                    return Err(self.failed(format!("no answer to {name} in {sec} s")));
                }
                Err(error) => return Err(self.failed(format!("{name}: {error}"))),
            }
        }
        Ok(())
    }

    fn failed(&self, why: impl Into<String>) -> Error {
        failed(&self.path, why)
    }
}

/// The bytes of a request.
pub(crate) fn to_message(request: &Request, needs_reply: bool) -> Vec<u8> {
    let (number, payload) = request.to_bytes();
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = Header { request: number, needs_reply, is_reply: false, len };
    [&header.to_bytes()[..], &payload].concat()
}

/// The request for `len` bytes of the configuration space.
pub(crate) fn get_config(len: usize) -> Request {
    Request::GetConfig(Config { offset: 0, flags: 0, bytes: vec![0; len] })
}

fn failed(path: &str, why: impl Into<String>) -> Error {
    Error::new(errno::EIO, format!("back end {path}: {}", why.into()))
}

fn connect(path: &str) -> std::io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(ANSWER_LIMIT))?;
    }
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn socket_pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}
