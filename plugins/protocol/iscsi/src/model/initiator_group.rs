//! Initiator groups: sets of initiators, by name and address.

use drivebay_sdk::{Error, Result};
use std::net::IpAddr;

/// Maximum number of names, and of netmasks, of a group.
const ENTRIES_MAX: usize = 256;

/// An initiator group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitiatorGroup {
    /// Initiator names, or `ANY`. A `!` in front excludes a name.
    pub initiators: Vec<String>,
    /// IP addresses with or without a prefix length, or `ANY`.
    pub netmasks: Vec<String>,
}

impl InitiatorGroup {
    /// Adds names and netmasks, all or none.
    ///
    /// # Errors
    /// `EINVAL` for an invalid or existing entry.
    pub fn add(&mut self, initiators: &[String], netmasks: &[String]) -> Result<()> {
        for netmask in netmasks {
            if parse_netmask(netmask).is_none() {
                let allowed = "an address, an address with a prefix length, or ANY";
                return Err(Error::invalid("netmasks", netmask, allowed));
            }
        }
        for name in initiators {
            if name.is_empty() || name.len() > 224 {
                return Err(Error::invalid("initiators", name, "names of 1 to 223 bytes, or ANY"));
            }
        }
        add_to(&mut self.initiators.clone(), "initiators", initiators)?;
        add_to(&mut self.netmasks, "netmasks", netmasks)?;
        add_to(&mut self.initiators, "initiators", initiators)
    }

    /// Removes names and netmasks, all or none.
    ///
    /// # Errors
    /// `EINVAL` for an entry that the group does not have.
    pub fn remove(&mut self, initiators: &[String], netmasks: &[String]) -> Result<()> {
        for (field, have, wanted) in
            [("initiators", &self.initiators, initiators), ("netmasks", &self.netmasks, netmasks)]
        {
            if let Some(missing) = wanted.iter().find(|one| !have.contains(one)) {
                return Err(Error::invalid(field, missing, "what the group has"));
            }
        }
        self.initiators.retain(|one| !initiators.contains(one));
        self.netmasks.retain(|one| !netmasks.contains(one));
        Ok(())
    }

    /// Whether the group admits (`true`) or excludes (`false`) an initiator; `None` if no entry matches.
    #[must_use]
    pub fn verdict(&self, name: &str, peer: IpAddr) -> Option<bool> {
        for entry in &self.initiators {
            match entry.strip_prefix('!') {
                Some(excluded) if is_any(excluded) || excluded.eq_ignore_ascii_case(name) => {
                    return Some(false);
                }
                None if is_any(entry) || entry.eq_ignore_ascii_case(name) => {
                    let is_near = self.netmasks.iter().any(|netmask| covers(netmask, peer));
                    return is_near.then_some(true);
                }
                _ => {}
            }
        }
        None
    }
}

fn add_to(list: &mut Vec<String>, field: &str, new: &[String]) -> Result<()> {
    for one in new {
        if list.contains(one) {
            return Err(Error::invalid(field, one, "an entry that the group does not have yet"));
        }
        if list.len() == ENTRIES_MAX {
            return Err(Error::invalid(field, one, "256 entries at most"));
        }
        list.push(one.clone());
    }
    Ok(())
}

/// `ALL` is the older form of `ANY`.
fn is_any(text: &str) -> bool {
    text.eq_ignore_ascii_case("ANY") || text.eq_ignore_ascii_case("ALL")
}

/// The address and its prefix length in bits; `Some(None)` for `ANY`; `None` for an invalid text.
fn parse_netmask(text: &str) -> Option<Option<(IpAddr, u32)>> {
    if is_any(text) {
        return Some(None);
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
    (prefix <= bits).then_some(Some((address, prefix)))
}

fn covers(netmask: &str, peer: IpAddr) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    match parse_netmask(netmask) {
        Some(None) => true,
        Some(Some((address, prefix))) => {
            let ((a, width), (b, other)) = (number(address), number(peer.to_canonical()));
            let differing = a ^ b;
            width == other && (prefix == 0 || differing.leading_zeros() >= prefix)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(initiators: &[&str], netmasks: &[&str]) -> InitiatorGroup {
        let owned = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let mut group = InitiatorGroup::default();
        group.add(&owned(initiators), &owned(netmasks)).unwrap();
        group
    }

    #[test]
    fn names_and_addresses_must_both_fit_and_an_exclusion_counts_first() {
        let peer = "192.168.1.77".parse().unwrap();
        let some = group(&["!iqn.bad", "iqn.good", "ANY"], &["192.168.1.0/24"]);
        assert_eq!(some.verdict("iqn.good", peer), Some(true));
        assert_eq!(some.verdict("iqn.other", peer), Some(true));
        assert_eq!(some.verdict("iqn.bad", peer), Some(false));
        assert_eq!(some.verdict("iqn.BAD", peer), Some(false));
        assert_eq!(some.verdict("iqn.good", "192.168.2.77".parse().unwrap()), None);
        assert_eq!(group(&["iqn.Good"], &["any"]).verdict("iqn.good", peer), Some(true));
        assert_eq!(group(&["iqn.good"], &["ANY"]).verdict("iqn.other", peer), None);
    }

    #[test]
    fn netmasks_of_both_families_are_compared_bit_by_bit() {
        for (netmask, peer, is_covered) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/31", "10.0.0.1", true),
            ("0.0.0.0/0", "10.0.0.1", true),
            ("[fe80::]/10", "fe81::1", true),
            ("fe80::/16", "fe81::1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "::1", false),
        ] {
            assert_eq!(covers(netmask, peer.parse().unwrap()), is_covered, "{netmask} {peer}");
        }
        let wrong = ["10.0.0.0/33".to_owned()];
        assert!(InitiatorGroup::default().add(&[], &wrong).is_err());
    }
}
