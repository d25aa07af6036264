//! Listening sockets.

use super::address::{Address, of_system};
use super::stale::remove_stale;
use super::stream::{Options, Stream, is_exhausted};
use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Maximum number of connections per `accept`, so that a burst of them does not block the thread.
const BURST: usize = 16;
/// How long the listener pauses when descriptors or memory run out, in nanoseconds.
const REST_NS: u64 = 100_000_000;

/// Options of a listener and of its connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// How many connections the system queues until they are accepted.
    pub backlog: i32,
    /// Options of accepted connections.
    pub stream: Options,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 128, stream: Options::default() }
    }
}

/// A listening socket. Dropping it removes the path of a Unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    options: ListenOptions,
    /// The listener accepts nothing before this time, on the caller's clock.
    rests_until_ns: u64,
    is_exhausted: bool,
}

impl Listener {
    /// Starts listening. An IPv6 socket accepts IPv6 only, so both families can use the same port. With port 0 the system chooses a port.
    /// The listener replaces a Unix socket that a killed process left at its path.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL` and other errors of bind(2) and listen(2). The text names the address.
    pub fn bind(address: &Address, options: &ListenOptions) -> Result<Self> {
        let mut opened = open(address, options);
        if let (Err(Errno::ADDRINUSE), Address::Unix(path)) = (&opened, address)
            && remove_stale(path).is_ok()
        {
            opened = open(address, options);
        }
        let socket = opened.map_err(|error| {
            let why = io::Error::from(error);
            Error::new(error.raw_os_error(), format!("listening on {address}: {why}"))
        })?;
        // From here on `listener` owns the path and removes it when it is dropped.
        let mut listener = Self {
            socket,
            address: address.clone(),
            options: *options,
            rests_until_ns: 0,
            is_exhausted: false,
        };
        if let Address::Ip(_) = address {
            let bound = rustix::net::getsockname(&listener.socket).map_err(io::Error::from)?;
            listener.address = of_system(bound)?;
        }
        Ok(listener)
    }

    /// The listening address, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts waiting connections, at most 16. When descriptors or memory run out, it logs this once, pauses for a tenth of a second
    /// and then tries again. `now_ns` is [`thread::now_ns`](crate::thread::now_ns).
    pub fn accept(&mut self, now_ns: u64, accepted: &mut Vec<Stream>) {
        if now_ns < self.rests_until_ns {
            return;
        }
        for _ in 0..BURST {
            match rustix::net::accept_with(
                &self.socket,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok(socket) => {
                    self.is_exhausted = false;
                    accepted.extend(self.prepare(socket));
                }
                Err(Errno::AGAIN) => return,
                Err(error) if is_exhausted(error) => {
                    self.rests_until_ns = now_ns.saturating_add(REST_NS);
                    if !std::mem::replace(&mut self.is_exhausted, true) {
                        let address = &self.address;
                        tracing::error!(
                            "accepting on {address}: {error}; connections wait until descriptors and \
                             memory are free again, see LimitNOFILE of the service"
                        );
                    }
                    return;
                }
                // The peer has closed the connection already, or the system reports its network error here: try the next one.
                Err(error) => tracing::debug!("accepting on {}: {error}", self.address),
            }
        }
    }

    /// When `accept` must be called again without an event of the descriptor, on the host's clock in nanoseconds; `u64::MAX` = never.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        if self.is_exhausted { self.rests_until_ns } else { u64::MAX }
    }

    fn prepare(&self, socket: OwnedFd) -> Option<Stream> {
        let set = match self.address {
            Address::Ip(_) => self.options.stream.apply_tcp(&socket),
            Address::Unix(_) => Ok(()),
        };
        match set {
            Ok(()) => Some(Stream::new(socket)),
            Err(error) => {
                tracing::debug!(
                    "cannot set the options of a new connection to {}: {error}",
                    self.address
                );
                None
            }
        }
    }
}

fn open(address: &Address, options: &ListenOptions) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        Address::Ip(ip) if ip.is_ipv4() => AddressFamily::INET,
        Address::Ip(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Accepted connections inherit the buffer sizes; the window scale is negotiated before they are accepted.
    options.stream.apply_buffers(&socket)?;
    match address {
        Address::Ip(ip) => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            if ip.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            rustix::net::bind(&socket, ip)?;
        }
        Address::Unix(path) => rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?,
    }
    rustix::net::listen(&socket, options.backlog)?;
    Ok(socket)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // An error means that the path is gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}
