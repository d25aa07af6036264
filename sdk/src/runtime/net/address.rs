//! Addresses of sockets.

use crate::error::{Error, Result};
use crate::runtime::worker;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Maximum length of a Unix socket's path, in bytes: `sun_path` of unix(7) without the terminating NUL.
const UNIX_PATH_MAX: usize = 107;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 with a port.
    Ip(SocketAddr),
    /// The path of a Unix socket; empty for a peer without a path.
    Unix(PathBuf),
}

impl Address {
    /// Makes an address from a numeric IP address and a port. `field` is the field's name in errors.
    ///
    /// # Errors
    /// `EINVAL` naming the field.
    pub fn ip(field: &str, address: &str, port: u16) -> Result<Self> {
        let trimmed = address.trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = trimmed.parse().map_err(|_| {
            Error::invalid(field, format!("'{address}'"), "an IPv4 or IPv6 address in digits")
        })?;
        Ok(Self::Ip(SocketAddr::new(ip, port)))
    }

    /// Makes an address from the path of a Unix socket. `field` is the field's name in errors.
    ///
    /// # Errors
    /// `EINVAL` for a path that is empty or too long.
    pub fn unix(field: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let len = path.as_os_str().len();
        if (1..=UNIX_PATH_MAX).contains(&len) {
            return Ok(Self::Unix(path));
        }
        let allowed = format!("a path of 1 to {UNIX_PATH_MAX} bytes");
        Err(Error::invalid(field, format!("of {len} bytes"), allowed))
    }

    /// Resolves a host name, on a worker. Accepts a numeric address as well. `[any lightweight thread]`
    ///
    /// # Errors
    /// `ENOENT` when the name has no address, or the errors of [`worker::run`].
    pub async fn resolve(host: &str, port: u16) -> Result<Vec<Self>> {
        if let Ok(address) = Self::ip("host", host, port) {
            return Ok(vec![address]);
        }
        let name = host.to_owned();
        let look_up = move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let found: std::io::Result<Vec<SocketAddr>> =
            worker::run(format!("resolve {host}"), look_up).await?;
        let found = found
            .map_err(|error| Error::new(crate::errno::ENOENT, format!("host {host}: {error}")))?;
        Ok(found.into_iter().map(Self::Ip).collect())
    }

    /// The IP address and port, or `None` for a Unix socket.
    #[must_use]
    pub fn as_ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Converts an address that the system returned for a socket or its peer.
pub(super) fn of_system(address: rustix::net::SocketAddrAny) -> Result<Address> {
    let error = || Error::new(crate::errno::EINVAL, "a socket is neither IPv4, IPv6 nor Unix");
    if let Ok(ip) = SocketAddr::try_from(address.clone()) {
        return Ok(Address::Ip(ip));
    }
    let unix = rustix::net::SocketAddrUnix::try_from(address).map_err(|_| error())?;
    let path = unix.path().map(|path| PathBuf::from(path.to_string_lossy().into_owned()));
    Ok(Address::Unix(path.unwrap_or_default()))
}
