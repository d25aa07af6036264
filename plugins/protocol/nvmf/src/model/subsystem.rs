//! A subsystem: namespaces, the hosts that may use them, and the addresses where it listens.

use super::{Access, AnaState, CommandLimits, ControllerKind, Namespace, matches};
use crate::controller::Controller;
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_spec_nvme::nqn;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Maximum number of namespaces of a subsystem when `max_namespaces` is not given.
pub const MAX_NAMESPACES: u32 = 32;

/// The options of a new subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Serial number.
    pub serial_number: String,
    /// Model number.
    pub model_number: String,
    /// A label for administrators.
    pub admin_label: String,
    /// Maximum number of namespaces; 0 means [`MAX_NAMESPACES`].
    pub max_namespaces: u32,
    /// The controller identifiers that the target assigns.
    pub cntlids: RangeInclusive<u16>,
    /// Maximum number of blocks of one range of Dataset Management; 0 means no limit.
    pub dmrsl: u32,
    /// Longest Write Zeroes, as a power of two of 4 KiB; 0 means no limit.
    pub wzsl: u8,
    /// Whether hosts get reports of how well each listener serves each ANA group.
    pub ana_reporting: bool,
}

/// An address where a subsystem listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub address: Address,
    /// Number in the discovery log.
    pub portid: u16,
    /// How well the listener serves each ANA group.
    pub access: Access,
}

/// One subsystem.
#[derive(Debug)]
pub struct Subsystem {
    /// Name.
    pub nqn: String,
    /// What its controllers serve.
    pub kind: ControllerKind,
    /// The options from its creation.
    pub options: Options,
    /// Whether hosts may connect that are not listed.
    pub allow_any_host: bool,
    /// The listed hosts.
    pub hosts: BTreeSet<String>,
    /// The addresses where it listens.
    pub listeners: Vec<Listener>,
    /// Namespaces by number.
    pub namespaces: BTreeMap<u32, Namespace>,
    /// Controllers by identifier.
    pub controllers: BTreeMap<u16, Controller>,
    next_cntlid: u16,
    next_portid: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            serial_number: "00000000000000000000".into(),
            model_number: "Drivebay bdev Controller".into(),
            admin_label: String::new(),
            max_namespaces: 0,
            cntlids: 1..=0xffef,
            dmrsl: 0,
            wzsl: 0,
            ana_reporting: false,
        }
    }
}

impl Options {
    /// Converts the limits of commands; 0 becomes the highest number.
    pub fn command_limits(&self) -> CommandLimits {
        let zeroes = 1u64.checked_shl(u32::from(self.wzsl) + 12).filter(|_| self.wzsl > 0);
        CommandLimits {
            unmap_blocks: if self.dmrsl == 0 { u32::MAX } else { self.dmrsl },
            zeroes_bytes: zeroes.unwrap_or(u64::MAX),
        }
    }
}

impl Subsystem {
    /// Creates a subsystem without listeners, hosts and namespaces.
    pub fn new(nqn: &str, options: Options) -> Self {
        let is_discovery = nqn == nqn::DISCOVERY;
        Self {
            nqn: nqn.to_owned(),
            kind: if is_discovery { ControllerKind::Discovery } else { ControllerKind::Io },
            next_cntlid: *options.cntlids.start(),
            next_portid: 0,
            options,
            allow_any_host: is_discovery,
            hosts: BTreeSet::new(),
            listeners: Vec::new(),
            namespaces: BTreeMap::new(),
            controllers: BTreeMap::new(),
        }
    }

    /// Whether a host may connect.
    pub fn allows(&self, hostnqn: &str) -> bool {
        self.allow_any_host || self.hosts.contains(hostnqn)
    }

    /// Whether this subsystem listens at `local`. The discovery subsystem listens wherever another one does.
    pub fn listens_at(&self, local: &Address) -> bool {
        self.kind == ControllerKind::Discovery || self.listener_of(local).is_some()
    }

    /// The listener of a connection to `local`.
    pub fn listener_of(&self, local: &Address) -> Option<&Listener> {
        let mut listeners = self.listeners.iter();
        let exact = self.listeners.iter().find(|listener| listener.address == *local);
        exact.or_else(|| listeners.find(|listener| matches(&listener.address, local)))
    }

    /// Creates a listener with a free number and all ANA groups in one state. The caller adds it to `listeners`.
    pub fn new_listener(&mut self, address: Address, state: AnaState) -> Listener {
        while self.listeners.iter().any(|listener| listener.portid == self.next_portid) {
            self.next_portid = self.next_portid.wrapping_add(1);
        }
        let portid = self.next_portid;
        self.next_portid = self.next_portid.wrapping_add(1);
        Listener { address, portid, access: Access::new(state) }
    }

    /// The number of the listener of a connection to `local`; `None` when the subsystem does not report ANA.
    pub fn ana_port(&self, local: &Address) -> Option<u16> {
        let listener = self.listener_of(local).filter(|_| self.options.ana_reporting);
        listener.map(|listener| listener.portid)
    }

    /// The state of an ANA group for a host that connected to `local`.
    pub fn ana_state(&self, local: &Address, group: u32) -> AnaState {
        let listener = self.listener_of(local).filter(|_| self.options.ana_reporting);
        listener.map_or(AnaState::Optimized, |listener| listener.access.state(group))
    }

    /// Counts a change of the ANA log of every listener, because a namespace has joined or left a group.
    pub fn ana_group_changed(&mut self, group: u32) {
        for listener in &mut self.listeners {
            listener.access.namespaces_changed(group);
        }
    }

    /// Maximum number of namespaces.
    pub fn max_namespaces(&self) -> u32 {
        match self.options.max_namespaces {
            0 => MAX_NAMESPACES,
            max => max,
        }
    }

    /// Returns the next free controller identifier, and starts again after the last one; `None` when all are in use.
    pub fn next_cntlid(&mut self) -> Option<u16> {
        let range = self.options.cntlids.clone();
        let mut round = (self.next_cntlid..=*range.end()).chain(range.clone());
        let cntlid = round.find(|cntlid| !self.controllers.contains_key(cntlid))?;
        self.next_cntlid =
            if cntlid == *range.end() { *range.start() } else { cntlid.saturating_add(1) };
        Some(cntlid)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::address_of;
    use crate::model::namespace::tests::namespace;

    /// `nqn.2016-06.io.spdk:cnode1` at 127.0.0.1:4420 with namespace 1, open to any host.
    pub(crate) fn subsystem() -> Subsystem {
        let mut subsystem = Subsystem::new("nqn.2016-06.io.spdk:cnode1", Options::default());
        subsystem.allow_any_host = true;
        subsystem.listen_at("127.0.0.1", "4420");
        subsystem.namespaces.insert(1, namespace(1));
        subsystem
    }

    impl Subsystem {
        /// Listens at a TCP address.
        pub(crate) fn listen_at(&mut self, traddr: &str, trsvcid: &str) {
            let address = address_of("TCP", None, traddr, trsvcid);
            let listener = self.new_listener(address, AnaState::Optimized);
            self.listeners.push(listener);
        }
    }

    #[test]
    fn controller_identifiers_go_round_and_skip_those_in_use() {
        let options = Options { cntlids: 5..=7, ..Options::default() };
        let mut subsystem: Subsystem = Subsystem::new("nqn.2016-06.io.spdk:c", options);
        assert_eq!(subsystem.next_cntlid(), Some(5));
        subsystem.controllers.insert(6, crate::controller::tests::controller());
        assert_eq!(subsystem.next_cntlid(), Some(7));
        assert_eq!(subsystem.next_cntlid(), Some(5));
        for cntlid in [5, 7] {
            subsystem.controllers.insert(cntlid, crate::controller::tests::controller());
        }
        assert_eq!(subsystem.next_cntlid(), None);
    }

    #[test]
    fn limits_that_are_reported_are_the_ones_that_are_kept_to() {
        let limits = |dmrsl, wzsl| Options { dmrsl, wzsl, ..Options::default() }.command_limits();
        let none = CommandLimits { unmap_blocks: u32::MAX, zeroes_bytes: u64::MAX };
        assert_eq!(limits(0, 0), none);
        assert_eq!(limits(8, 3), CommandLimits { unmap_blocks: 8, zeroes_bytes: 32_768 });
        assert_eq!(limits(0, 255), none);
    }

    #[test]
    fn only_listed_hosts_connect_unless_any_may() {
        let mut subsystem = subsystem();
        assert!(subsystem.allows("nqn.2016-06.io.spdk:host1"));
        subsystem.allow_any_host = false;
        assert!(!subsystem.allows("nqn.2016-06.io.spdk:host1"));
        subsystem.hosts.insert("nqn.2016-06.io.spdk:host1".into());
        assert!(subsystem.allows("nqn.2016-06.io.spdk:host1"));
    }
}
