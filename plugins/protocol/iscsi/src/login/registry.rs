//! The registry of sessions, which accepts or refuses new logins. RFC 7143, section 6.3.

use drivebay_spec_iscsi::pdu::LoginStatus;
use std::collections::BTreeMap;

/// A session, from its first login to the end of its last connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The target; `None` for discovery.
    pub target: Option<String>,
    /// The initiator's name.
    pub initiator: String,
    /// ISID: the initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// The portal group.
    pub pg_tag: i32,
    /// CIDs of its connections.
    pub cids: Vec<u16>,
}

/// All sessions, by TSIH.
#[derive(Debug, Default)]
pub struct Registry {
    records: BTreeMap<u16, Record>,
    last: u16,
}

impl Registry {
    /// A session.
    #[must_use]
    pub fn get(&self, tsih: u16) -> Option<&Record> {
        self.records.get(&tsih)
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Record)> {
        self.records.iter().map(|(tsih, record)| (*tsih, record))
    }

    /// Begins a session. Returns the TSIH of the new session, and the earlier session of the same initiator port, which it replaces. The
    /// caller ends that session at once and does not wait for its I/Os (section 6.3.5).
    ///
    /// # Errors
    /// The status of the login when there are too many sessions.
    pub fn open(&mut self, record: Record, max: u32) -> Result<(u16, Option<u16>), LoginStatus> {
        let is_same = |other: &Record| {
            record.target.is_some()
                && other.target == record.target
                && other.initiator == record.initiator
                && other.isid == record.isid
                && other.pg_tag == record.pg_tag
        };
        let replaced = self.records.iter().find(|(_, other)| is_same(other)).map(|(tsih, _)| *tsih);
        if let Some(tsih) = replaced {
            self.records.remove(&tsih);
        }
        if self.records.len() >= usize::try_from(max).unwrap_or(usize::MAX).min(65_000) {
            return Err(LoginStatus::OutOfResources);
        }
        let tsih = self.free();
        self.records.insert(tsih, record);
        Ok((tsih, replaced))
    }

    fn free(&mut self) -> u16 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.records.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Adds a connection to a session.
    ///
    /// # Errors
    /// The status of the login when this initiator has no such session, or the session has enough connections.
    pub fn join(&mut self, tsih: u16, new: &Record, max: u16) -> Result<(), LoginStatus> {
        let record = self.records.get_mut(&tsih).ok_or(LoginStatus::SessionDoesNotExist)?;
        let is_same = record.target == new.target
            && record.initiator == new.initiator
            && record.isid == new.isid
            && record.pg_tag == new.pg_tag;
        if !is_same {
            return Err(LoginStatus::CannotIncludeInSession);
        }
        let is_known = new.cids.iter().any(|cid| record.cids.contains(cid));
        if is_known || record.cids.len() >= usize::from(max) {
            return Err(LoginStatus::TooManyConnections);
        }
        record.cids.extend(&new.cids);
        Ok(())
    }

    /// Removes a connection. The session goes with its last connection.
    pub fn leave(&mut self, tsih: u16, cid: u16) {
        let Some(record) = self.records.get_mut(&tsih) else { return };
        record.cids.retain(|other| *other != cid);
        if record.cids.is_empty() {
            self.records.remove(&tsih);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cid: u16) -> Record {
        Record {
            target: Some("iqn.t".into()),
            initiator: "iqn.i".into(),
            isid: [1; 6],
            pg_tag: 1,
            cids: vec![cid],
        }
    }

    #[test]
    fn the_same_port_takes_the_place_of_its_session() {
        let mut registry = Registry::default();
        let (first, none) = registry.open(record(0), 8).unwrap();
        assert_eq!(none, None);
        let (second, replaced) = registry.open(record(0), 8).unwrap();
        assert_eq!(replaced, Some(first));
        assert_ne!(second, first);
        registry.leave(first, 0); // the news of the old one comes late
        assert!(registry.get(second).is_some());
    }

    #[test]
    fn sessions_and_connections_have_limits() {
        let mut registry = Registry::default();
        let (tsih, _) = registry.open(record(0), 1).unwrap();
        let other = Record { isid: [2; 6], ..record(0) };
        assert_eq!(registry.open(other.clone(), 1), Err(LoginStatus::OutOfResources));
        assert_eq!(registry.join(tsih, &record(1), 2), Ok(()));
        assert_eq!(registry.join(tsih, &record(2), 2), Err(LoginStatus::TooManyConnections));
        assert_eq!(registry.join(tsih, &other, 9), Err(LoginStatus::CannotIncludeInSession));
        assert_eq!(registry.join(tsih + 1, &record(3), 9), Err(LoginStatus::SessionDoesNotExist));
        registry.leave(tsih, 0);
        registry.leave(tsih, 1);
        assert!(registry.get(tsih).is_none());
    }
}
