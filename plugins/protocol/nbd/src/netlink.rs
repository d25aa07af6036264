//! The kernel's nbd over generic netlink: `linux/nbd-netlink.h`, `linux/genetlink.h`, netlink(7).
//!
//! The calls block until the kernel answers, so they run on a worker.
#![expect(clippy::host_endian_bytes, reason = "netlink uses the byte order of this machine")]

use drivebay_sdk::{Error, Result, errno};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long the kernel may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 8192;

const HEADER_LEN: usize = 16;
const GENERIC_HEADER_LEN: usize = 4;
const ERROR: u16 = 2;
const REQUEST_AND_ACK: u16 = 1 | 4;
const NESTED: u16 = 1 << 15;

/// The controller of generic netlink, and its command and attributes.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Commands and attributes of nbd.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;

/// The parameters of an attached device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach {
    /// Its number.
    pub(crate) index: u32,
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// Its block size, in bytes.
    pub(crate) block_size: u32,
    /// Transmission flags.
    pub(crate) flags: u16,
}

/// A socket to the kernel's nbd.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    family: u16,
}

impl Netlink {
    /// Opens a socket and looks up nbd. The kernel loads the nbd module for that, if it can.
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no nbd.
    pub(crate) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )
        .map_err(io::Error::from)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))
            .map_err(io::Error::from)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(io::Error::from)?;
        let mut this = Self { socket, family: CONTROLLER };
        let mut name = Attributes::default();
        name.put(FAMILY_NAME, b"nbd\0");
        let answer = this.call(GET_FAMILY, &name).map_err(|error| match error.raw_os_error() {
            Some(errno::ENOENT) => {
                let message = "the kernel has no nbd: load its module (modprobe nbd)";
                Error::new(errno::ENODEV, message)
            }
            _ => failed("looking up nbd", &error),
        })?;
        let id = answer.as_deref().and_then(|attributes| find(attributes, FAMILY_ID));
        let id = id.and_then(|id| id.first_chunk().copied()).map(u16::from_ne_bytes);
        this.family = id.ok_or_else(|| {
            Error::new(errno::ENODEV, "the kernel gave no id for the netlink family nbd")
        })?;
        Ok(this)
    }

    /// Attaches a device to one end of a socket pair.
    ///
    /// # Errors
    /// `EBUSY` when the device is in use, `EPERM` without CAP_SYS_ADMIN.
    pub(crate) fn connect(&self, attach: &Attach, socket: BorrowedFd<'_>) -> Result<()> {
        let fd = u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX);
        let (mut item, mut items, mut all) =
            (Attributes::default(), Attributes::default(), Attributes::default());
        item.put(SOCKET_FD, &fd.to_ne_bytes());
        items.put(SOCKET_ITEM | NESTED, &item.0);
        all.put(INDEX, &attach.index.to_ne_bytes());
        all.put(SIZE_BYTES, &attach.size.to_ne_bytes());
        all.put(BLOCK_SIZE_BYTES, &u64::from(attach.block_size).to_ne_bytes());
        all.put(SERVER_FLAGS, &u64::from(attach.flags).to_ne_bytes());
        all.put(SOCKETS | NESTED, &items.0);
        let attached = self.call(CONNECT, &all);
        attached
            .map(drop)
            .map_err(|error| failed(&format!("attaching /dev/nbd{}", attach.index), &error))
    }

    /// Detaches a device. The kernel finishes earlier requests first.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn disconnect(&self, index: u32) -> Result<()> {
        let mut attributes = Attributes::default();
        attributes.put(INDEX, &index.to_ne_bytes());
        let detached = self.call(DISCONNECT, &attributes);
        detached.map(drop).map_err(|error| failed(&format!("detaching /dev/nbd{index}"), &error))
    }

    /// Changes the size of an attached device, in bytes.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn resize(&self, index: u32, size: u64) -> Result<()> {
        let mut attributes = Attributes::default();
        attributes.put(INDEX, &index.to_ne_bytes());
        attributes.put(SIZE_BYTES, &size.to_ne_bytes());
        let resized = self.call(RECONFIGURE, &attributes);
        resized.map(drop).map_err(|error| failed(&format!("resizing /dev/nbd{index}"), &error))
    }

    /// Sends a command and waits for its acknowledgement. Returns the attributes of the answer, if one came first.
    fn call(&self, command: u8, attributes: &Attributes) -> io::Result<Option<Vec<u8>>> {
        let len = HEADER_LEN + GENERIC_HEADER_LEN + attributes.0.len();
        let mut message = u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
        message.extend(self.family.to_ne_bytes());
        message.extend(REQUEST_AND_ACK.to_ne_bytes());
        message.extend([0; 8]); // sequence number and port: one request at a time needs neither
        message.extend([command, 1, 0, 0]);
        message.extend_from_slice(&attributes.0);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut found = None;
        let mut answer = vec![0; ANSWER_LEN_MAX];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut *answer, RecvFlags::empty())?;
            for (kind, body) in messages(answer.get(..len).unwrap_or_default()) {
                if kind == ERROR {
                    let code = body.first_chunk().copied().map_or(-errno::EIO, i32::from_ne_bytes);
                    let failed = || io::Error::from_raw_os_error(code.saturating_neg());
                    return if code == 0 { Ok(found) } else { Err(failed()) };
                }
                found = body.get(GENERIC_HEADER_LEN..).map(<[u8]>::to_vec);
            }
        }
    }
}

fn failed(what: &str, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        let why = format!("{what}: the kernel did not answer in {} s", LIMIT.as_secs());
        return Error::new(errno::ETIMEDOUT, why);
    }
    Error::new(error.raw_os_error().unwrap_or(errno::EIO), format!("{what}: {error}"))
}

/// Attributes of a message. Length and kind stand before each value.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The messages in a datagram, as kind and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?);
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let len = usize::try_from(len).ok()?;
        let body = bytes.get(HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Finds an attribute by its kind.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_kind_and_cut_off_ones_are_not() {
        let mut attributes = Attributes::default();
        attributes.put(1, &[7; 3]);
        attributes.put(2, &[9; 8]);
        assert_eq!(find(&attributes.0, 2), Some(&[9; 8][..]));
        assert_eq!(find(&attributes.0, 3), None);
        assert_eq!(find(&attributes.0[..12], 2), None);
        assert_eq!(find(&[0, 0, 2, 0], 2), None, "shorter than its own header");
    }

    #[test]
    fn a_message_that_is_cut_off_is_none() {
        assert_eq!(messages(&[0xff; 16]).count(), 0);
        assert_eq!(messages(&[8, 0, 0, 0, 2, 0, 0, 0]).count(), 0, "shorter than its own header");
    }
}
