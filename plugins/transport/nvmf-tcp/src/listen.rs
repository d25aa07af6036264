//! Listening sockets and new connections, on the app thread.

use crate::places::{Place, Places};
use drivebay_sdk::nvmf::transport::Address;
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// The maximum number of connections accepted at once, so that a storm of them does not delay the app thread.
const BURST: usize = 16;

/// Receive buffer, in bytes: room for a whole queue of writes with data in their capsules, so that the host never waits
/// for the window to open.
const RECEIVE_ROOM: usize = 2 << 20;
/// Receive buffer of a connection that is not an I/O queue. It receives only a Connect and commands without data.
const SMALL_RECEIVE_ROOM: usize = 128 << 10;
/// After this time of silence a peer gets keep-alive probes, at the interval and up to the count below. So the
/// transport notices a peer that vanished, even when nothing is sent to it.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_COUNT: u32 = 3;
/// The congestion control of local connections: it waits only for acknowledgements. Every Linux has it, and every user
/// may select it.
const UNPACED: &str = "reno";

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    pub(crate) socket: TcpListener,
    /// Number of its connections.
    count: Arc<AtomicU32>,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: TcpStream,
    /// `None` if the peer has closed already.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) place: Option<Place>,
}

/// No connection can be accepted for a while, because a resource has run out.
#[derive(Debug)]
pub(crate) struct Exhausted(pub(crate) std::io::Error);

/// Returns the socket address of a transport address.
///
/// # Errors
/// `EINVAL` naming the invalid part.
pub(crate) fn parse(address: &Address) -> Result<SocketAddr> {
    let invalid =
        |field, given: &str, allowed: &str| Error::invalid(field, format!("'{given}'"), allowed);
    let ip: IpAddr = address
        .traddr
        .parse()
        .map_err(|_| invalid("traddr", &address.traddr, "an IPv4 or IPv6 address in digits"))?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if !address.adrfam.is_empty() && !address.adrfam.eq_ignore_ascii_case(family) {
        return Err(invalid("adrfam", &address.adrfam, &format!("{family} for {ip}")));
    }
    let port = address.trsvcid.parse().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| invalid("trsvcid", &address.trsvcid, "a port, 1 to 65535"))?;
    Ok(SocketAddr::new(ip, port))
}

/// Returns the transport address of a socket address.
pub(crate) fn describe(address: SocketAddr) -> Address {
    Address {
        trtype: "TCP".into(),
        adrfam: if address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
        traddr: address.ip().to_canonical().to_string(),
        trsvcid: address.port().to_string(),
    }
}

impl Listener {
    /// Listens on `address`. IPv6 sockets accept only IPv6, so that both families can use the same port. A connection
    /// ends if its peer acknowledges nothing of the sent data for `patience_ms`; 0 leaves that time to the system.
    ///
    /// # Errors
    /// The errors of bind(2) and listen(2), such as `EADDRINUSE` and `EADDRNOTAVAIL`.
    pub(crate) fn bind(address: SocketAddr, backlog: i32, patience_ms: u32) -> Result<Self> {
        let bound = || -> rustix::io::Result<_> {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            // Accepted sockets inherit all of these. The buffer size is set for the scale of the window, which the
            // system fixes before the connection is accepted. `prepare` makes the buffer smaller again.
            sockopt::set_tcp_user_timeout(&socket, patience_ms)?;
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE_IDLE)?;
            sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE_INTERVAL)?;
            sockopt::set_tcp_keepcnt(&socket, KEEP_ALIVE_COUNT)?;
            if let Some(room) = receive_room() {
                sockopt::set_socket_recv_buffer_size(&socket, room)?;
            }
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, backlog)?;
            Ok(socket)
        };
        let socket = bound().map_err(|error| {
            Error::new(error.raw_os_error(), format!("listening on {address}: {error}"))
        })?;
        Ok(Self { address, socket: TcpListener::from(socket), count: Arc::default() })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts waiting connections, a burst at most. Closes those without a place.
    ///
    /// # Errors
    /// When descriptors or memory have run out. `accepted` has the connections that were accepted before.
    pub(crate) fn accept(
        &self,
        places: &Arc<Places>,
        accepted: &mut Vec<Arrived>,
    ) -> Result<(), Exhausted> {
        for _ in 0..BURST {
            match self.socket.accept() {
                Ok((stream, peer)) => accepted.extend(self.take_in(stream, peer, places)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The peer has closed again, or its network had an error. The next connection may be good.
                Err(error) if !is_exhausted(&error) => {
                    tracing::debug!("accepting on {}: {error}", self.address);
                }
                Err(error) => return Err(Exhausted(error)),
            }
        }
        Ok(())
    }

    fn take_in(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        places: &Arc<Places>,
    ) -> Option<Arrived> {
        static NO_PLACE: Throttle = Throttle::new();
        let place = match places.take(peer.ip().to_canonical(), &self.count) {
            Ok(place) => place,
            Err(none) => {
                if let Some(left_out) = NO_PLACE.admit() {
                    let (option, address) = (none.option(), self.address);
                    tracing::warn!(
                        "connection from {peer} to {address} closed: {option} is reached ({left_out} such lines left out)"
                    );
                }
                return None;
            }
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!("a connection was lost before it was accepted: {error}");
            return None;
        }
        Some(Arrived { stream, peer: Some(peer), place: Some(place) })
    }
}

/// Whether descriptors or memory have run out.
fn is_exhausted(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// [`RECEIVE_ROOM`], if the system permits that much. Otherwise `None`: then the system chooses the size, and may in
/// time exceed what it permits us.
pub(crate) fn receive_room() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    let permitted: usize = text.trim().parse().unwrap_or(0);
    (permitted >= RECEIVE_ROOM).then_some(RECEIVE_ROOM)
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    if sockopt::socket_recv_buffer_size(stream)? >= RECEIVE_ROOM {
        sockopt::set_socket_recv_buffer_size(stream, SMALL_RECEIVE_ROOM)?;
    }
    let is_local = stream.peer_addr()?.ip() == stream.local_addr()?.ip();
    if is_local && let Err(error) = sockopt::set_tcp_congestion(stream, UNPACED) {
        // A local connection has no network that could be congested. But where the system paces (BBR), it sets a timer
        // for every few packets, which takes a third of the time of a large read.
        tracing::debug!("cannot select reno, so a local connection may be paced: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_sdk::testing::FakeHost;
    use std::io::Read;

    fn address(traddr: &str, trsvcid: &str) -> Address {
        Address { traddr: traddr.into(), trsvcid: trsvcid.into(), ..Address::default() }
    }

    #[test]
    fn both_families_and_any_address_are_understood_and_the_wrong_part_is_named() {
        assert_eq!(parse(&address("0.0.0.0", "4420")).unwrap().to_string(), "0.0.0.0:4420");
        assert_eq!(parse(&address("::1", "4420")).unwrap().to_string(), "[::1]:4420");
        for (traddr, trsvcid, adrfam, named) in [
            ("localhost", "4420", "", "traddr"),
            ("127.0.0.1", "0", "", "trsvcid"),
            ("127.0.0.1", "70000", "", "trsvcid"),
            ("127.0.0.1", "4420", "IPv6", "adrfam"),
        ] {
            let wrong = Address { adrfam: adrfam.into(), ..address(traddr, trsvcid) };
            let error = parse(&wrong).unwrap_err();
            assert!(error.message().starts_with(named), "{error}");
        }
    }

    #[test]
    fn a_port_in_use_and_an_address_of_no_interface_are_reported() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap(), 8, 0).unwrap();
        let port = first.socket.local_addr().unwrap().port();
        let again = Listener::bind(SocketAddr::from(([127, 0, 0, 1], port)), 8, 0).unwrap_err();
        assert_eq!(again.errno(), rustix::io::Errno::ADDRINUSE.raw_os_error());
        let nobody = Listener::bind("192.0.2.1:4420".parse().unwrap(), 8, 0).unwrap_err();
        assert_eq!(nobody.errno(), rustix::io::Errno::ADDRNOTAVAIL.raw_os_error());
    }

    #[test]
    fn both_families_may_have_the_same_port() {
        let Ok(six) = Listener::bind("[::]:0".parse().unwrap(), 8, 0) else { return };
        let port = six.socket.local_addr().unwrap().port();
        assert!(Listener::bind(SocketAddr::from(([0, 0, 0, 0], port)), 8, 0).is_ok());
    }

    #[test]
    fn a_connection_is_accepted_without_delay_and_without_blocking() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 8, 0).unwrap();
        let (mut accepted, places) = (Vec::new(), Places::new(8, 8));
        listener.accept(&places, &mut accepted).unwrap();
        assert!(accepted.is_empty());
        let _host = TcpStream::connect(listener.socket.local_addr().unwrap()).unwrap();
        listener.accept(&places, &mut accepted).unwrap();
        let stream = &accepted[0].stream;
        assert!(stream.nodelay().unwrap());
        assert_eq!(sockopt::tcp_congestion(stream).unwrap(), UNPACED);
        assert!(sockopt::socket_keepalive(stream).unwrap(), "a peer that vanishes is noticed");
        assert_eq!(sockopt::tcp_keepidle(stream).unwrap(), KEEP_ALIVE_IDLE);
        if receive_room().is_some() {
            assert!(sockopt::socket_recv_buffer_size(stream).unwrap() < RECEIVE_ROOM);
        }
    }

    #[test]
    fn a_peer_with_too_many_connections_is_closed() {
        let _host = FakeHost::new();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 8, 0).unwrap();
        let (mut accepted, places) = (Vec::new(), Places::new(1, 8));
        let at = listener.socket.local_addr().unwrap();
        let _first = TcpStream::connect(at).unwrap();
        let mut second = TcpStream::connect(at).unwrap();
        listener.accept(&places, &mut accepted).unwrap();
        assert_eq!(accepted.len(), 1);
        assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
        accepted.clear();
        let _third = TcpStream::connect(at).unwrap();
        listener.accept(&places, &mut accepted).unwrap();
        assert_eq!(accepted.len(), 1, "the place was given back");
    }
}
