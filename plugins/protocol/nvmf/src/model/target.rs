//! The whole target: subsystems by name, referrals, and the discovery log that follows from them.

use super::{ControllerKind, Options, Subsystem};
use crate::controller::Ticket;
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::nqn;
use std::collections::BTreeMap;

/// Maximum number of subsystems unless `nvmf_set_max_subsystems` changes it.
const MAX_SUBSYSTEMS: u32 = 1024;

/// A discovery service or subsystem elsewhere that the discovery log points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referral {
    /// Its address.
    pub address: Address,
    /// Name of the subsystem there.
    pub subnqn: String,
    /// Whether it needs a secure channel.
    pub secure_channel: bool,
}

/// What a listener must have in common with the connection that reads the discovery log, to be in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryFilter {
    /// Transport type.
    pub transport: bool,
    /// Address.
    pub address: bool,
    /// Service.
    pub svcid: bool,
}

impl DiscoveryFilter {
    /// Adds a filter by its name. Returns whether the name is known.
    pub fn add(&mut self, name: &str) -> bool {
        match name {
            "transport" => self.transport = true,
            "address" => self.address = true,
            "svcid" => self.svcid = true,
            _ => return false,
        }
        true
    }

    /// Whether a host that connected to `local` finds a listener in the log.
    pub fn lets_through(self, listener: &Address, local: &Address) -> bool {
        (!self.transport || listener.trtype == local.trtype)
            && (!self.address || listener.traddr == local.traddr)
            && (!self.svcid || listener.trsvcid == local.trsvcid)
    }
}

/// Everything the RPCs configure.
#[derive(Debug)]
pub struct Model {
    /// Subsystems by name. The discovery subsystem exists from the start, but can be deleted.
    pub subsystems: BTreeMap<String, Subsystem>,
    /// Referrals, in the order in which they were added.
    pub referrals: Vec<Referral>,
    /// Maximum number of subsystems.
    pub max_subsystems: u32,
    /// Filter for listeners in the discovery log.
    pub discovery_filter: DiscoveryFilter,
    /// Command retry delays, in 100 ms.
    pub crdt: [u16; 3],
    /// Generation counter of the discovery log.
    pub genctr: u64,
}

impl Default for Model {
    /// A target with only the discovery subsystem.
    fn default() -> Self {
        let discovery = Subsystem::new(nqn::DISCOVERY, Options::default());
        Self {
            subsystems: BTreeMap::from([(discovery.nqn.clone(), discovery)]),
            referrals: Vec::new(),
            max_subsystems: MAX_SUBSYSTEMS,
            discovery_filter: DiscoveryFilter::default(),
            crdt: [0; 3],
            genctr: 0,
        }
    }
}

impl Model {
    /// Number of subsystems that count against the limit.
    pub fn num_subsystems(&self) -> usize {
        self.subsystems.len()
    }

    /// Counts a change of the discovery log. Returns the requests to answer.
    pub fn discovery_changed(&mut self) -> Vec<(Ticket, AsyncEvent)> {
        self.genctr += 1;
        let discovery =
            self.subsystems.values_mut().filter(|s| s.kind == ControllerKind::Discovery);
        discovery
            .flat_map(|subsystem| subsystem.controllers.values_mut())
            .filter_map(|controller| controller.discovery_changed())
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::controller::Controller;
    use crate::controller::tests::{ready, ticket};
    use crate::model::subsystem::tests::subsystem;

    /// A target with one subsystem, [`subsystem`].
    pub(crate) fn model() -> Model {
        let mut model = Model::default();
        let subsystem = subsystem();
        model.subsystems.insert(subsystem.nqn.clone(), subsystem);
        model
    }

    #[test]
    fn a_change_of_the_discovery_log_is_reported_to_controllers_that_read_it() {
        let mut model = model();
        let mut controller = Controller { kind: ControllerKind::Discovery, ..ready() };
        controller.events.request(ticket(9));
        let discovery = model.subsystems.get_mut(nqn::DISCOVERY).unwrap();
        discovery.controllers.insert(1, controller);
        assert_eq!(model.discovery_changed(), [(ticket(9), AsyncEvent::DISCOVERY_LOG_CHANGE)]);
        assert_eq!(model.genctr, 1);
    }
}
