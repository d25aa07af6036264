//! Portal groups: the addresses that the target listens on.

use super::ChapPolicy;
use drivebay_sdk::{Error, Result};
use std::net::{IpAddr, SocketAddr};

/// A portal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// The address as given.
    pub host: String,
    /// The port as given.
    pub port: String,
}

impl Portal {
    /// The socket address.
    ///
    /// # Errors
    /// `EINVAL` that names the invalid field.
    pub fn address(&self) -> Result<SocketAddr> {
        let host = match self.host.as_str() {
            "*" | "" => "0.0.0.0",
            "[*]" => "::",
            host => host.trim_start_matches('[').trim_end_matches(']'),
        };
        let allowed = "an IPv4 or IPv6 address in digits, * or [*]";
        let ip: IpAddr = host.parse().map_err(|_| Error::invalid("host", &self.host, allowed))?;
        let port = self.port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| Error::invalid("port", &self.port, "1 to 65535"))?;
        Ok(SocketAddr::new(ip, port))
    }
}

/// A portal group.
#[derive(Clone, Debug)]
pub struct PortalGroup {
    /// Its portals.
    pub portals: Vec<Portal>,
    /// Only discovery sessions through the group itself see it.
    pub is_private: bool,
    /// The CHAP requirements of discovery through the group.
    pub chap: ChapPolicy,
}
