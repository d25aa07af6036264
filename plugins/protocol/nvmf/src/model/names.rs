//! Addresses and identifiers as text.

use drivebay_sdk::nvmf::protocol::Address;
use std::fmt::Write;
use std::net::IpAddr;

/// Converts the address of an RPC to its only form here: the transport type in capitals, the IP address and the port as the system writes
/// them, the address family taken from the address when absent. So two addresses are the same when they are equal.
pub fn address_of(trtype: &str, adrfam: Option<&str>, traddr: &str, trsvcid: &str) -> Address {
    let ip: Option<IpAddr> = traddr.parse().ok();
    let adrfam = match (adrfam.map(str::to_ascii_lowercase).as_deref(), ip) {
        (Some("ipv4"), _) | (None, Some(IpAddr::V4(_))) => "IPv4".to_owned(),
        (Some("ipv6"), _) | (None, Some(IpAddr::V6(_))) => "IPv6".to_owned(),
        (Some("ib"), _) => "IB".to_owned(),
        (Some("fc"), _) => "FC".to_owned(),
        (Some(other), _) => other.to_owned(),
        (None, None) if traddr.contains(':') => "IPv6".to_owned(),
        (None, None) => "IPv4".to_owned(),
    };
    let trtype = trtype.to_ascii_uppercase();
    let traddr = ip.map_or_else(|| traddr.to_owned(), |ip| ip.to_string());
    let port = Some(trsvcid).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let port = port.and_then(|text| text.parse::<u16>().ok());
    let trsvcid = port.map_or_else(|| trsvcid.to_owned(), |port| port.to_string());
    Address { trtype, adrfam, traddr, trsvcid }
}

/// Whether a connection to `local` belongs to `listener`. A listener at any address accepts connections of its own address family.
pub fn matches(listener: &Address, local: &Address) -> bool {
    listener.trtype == local.trtype
        && listener.trsvcid == local.trsvcid
        && (listener.traddr == local.traddr || is_any(listener) && listener.adrfam == local.adrfam)
}

/// Whether it means every address of the machine, such as 0.0.0.0.
pub fn is_any(address: &Address) -> bool {
    address.traddr.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
}

/// Whether `text` can be a serial or model number: printable ASCII, at most `max` characters.
pub fn check_text(text: &str, max: usize) -> bool {
    text.len() <= max && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Writes `bytes` as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// Reads `N` bytes from hexadecimal digits and ignores dashes.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            *byte = *byte << 4 | u8::try_from(digit.to_digit(16)?).ok()?;
        }
    }
    Some(bytes)
}

/// Writes a UUID in its usual form.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = hex(uuid).to_ascii_lowercase();
    let part = |range| digits.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_at_any_address_takes_connections_to_its_port_only() {
        let any = address_of("tcp", None, "0.0.0.0", "4420");
        let at = |port| address_of("TCP", Some("ipv4"), "10.0.0.1", port);
        assert!(matches(&any, &at("4420")));
        assert!(!matches(&any, &at("4421")));
        assert!(!matches(&at("4420"), &address_of("TCP", None, "10.0.0.2", "4420")));
        assert!(!matches(&any, &address_of("RDMA", None, "10.0.0.1", "4420")));
    }

    #[test]
    fn a_listener_at_any_address_takes_its_own_family_only() {
        let at = |traddr| address_of("tcp", None, traddr, "4420");
        for (any, family) in [("0.0.0.0", "10.0.0.1"), ("::", "fd00::1")] {
            for local in ["10.0.0.1", "fd00::1"] {
                assert_eq!(matches(&at(any), &at(local)), local == family, "{any} {local}");
            }
        }
    }

    #[test]
    fn the_same_address_is_equal_however_it_is_written() {
        let one = address_of("tcp", None, "::1", "4420");
        for (adrfam, traddr, trsvcid) in [
            (None, "::0001", "4420"),
            (Some("ipv6"), "0:0:0:0:0:0:0:1", "04420"),
            (Some("IPv6"), "0000:0000::0001", "004420"),
        ] {
            assert_eq!(address_of("TCP", adrfam, traddr, trsvcid), one, "{traddr} {trsvcid}");
        }
        assert!(is_any(&address_of("tcp", None, "0:0:0:0:0:0:0:0", "4420")));
        let odd = address_of("tcp", None, "fd00::A", "+4420");
        assert_eq!((odd.traddr.as_str(), odd.trsvcid.as_str()), ("fd00::a", "+4420"));
    }

    #[test]
    fn the_address_family_is_found_out() {
        assert_eq!(address_of("tcp", None, "::1", "4420").adrfam, "IPv6");
        assert_eq!(address_of("tcp", None, "::1", "4420").trtype, "TCP");
        assert_eq!(address_of("tcp", Some("IPV4"), "127.0.0.1", "1").adrfam, "IPv4");
    }

    #[test]
    fn identifiers_are_written_and_read() {
        let uuid = parse_hex::<16>("f81d4fae-7dec-11d0-a765-00a0c91e6bf6").unwrap();
        assert_eq!(uuid_text(&uuid), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
        assert_eq!(hex(&[0xab, 1]), "AB01");
        for wrong in ["0", "0g", "001122", ""] {
            assert_eq!(parse_hex::<2>(wrong), None, "{wrong}");
        }
    }
}
