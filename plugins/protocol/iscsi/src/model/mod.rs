//! The configuration: options, portal groups, initiator groups, authentication groups, target nodes. It stays on the app thread.

pub mod auth;
pub mod initiator_group;
pub mod options;
pub mod portal_group;
pub mod target;

pub use auth::{AuthGroup, ChapPolicy, Secret};
pub use initiator_group::InitiatorGroup;
pub use options::Options;
pub use portal_group::{Portal, PortalGroup};
pub use target::{Lun, Map, Target};

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Maximum number of target nodes.
pub const TARGETS_MAX: usize = 1024;

/// The configuration.
#[derive(Debug, Default)]
pub struct Model {
    /// Options.
    pub options: Options,
    /// Whether `iscsi_set_options` was called.
    pub options_are_set: bool,
    /// Portal groups by tag.
    pub portal_groups: BTreeMap<i32, PortalGroup>,
    /// Initiator groups by tag.
    pub initiator_groups: BTreeMap<i32, InitiatorGroup>,
    /// Authentication groups by tag.
    pub auth_groups: BTreeMap<i32, AuthGroup>,
    /// Target nodes by name.
    pub targets: BTreeMap<String, Target>,
}

impl Model {
    /// A target. The case of the name does not matter.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<&Target> {
        self.targets.values().find(|target| target.name.eq_ignore_ascii_case(name))
    }

    /// Whether an initiator may see and use a target through a portal group. Discovery and login both ask this.
    #[must_use]
    pub fn admits(
        &self,
        target: &Target,
        portal_group: i32,
        initiator: &str,
        peer: IpAddr,
    ) -> bool {
        let maps = target.maps.iter().filter(|map| map.pg_tag == portal_group);
        let mut groups = maps.filter_map(|map| self.initiator_groups.get(&map.ig_tag));
        // The first group that admits or excludes the initiator decides.
        let verdict = groups.find_map(|group| group.verdict(initiator, peer));
        verdict == Some(true)
    }

    /// The CHAP requirements of a login to a target, or of discovery (`None`) through a portal group.
    #[must_use]
    pub fn policy(&self, target: Option<&Target>, portal_group: i32) -> ChapPolicy {
        let Some(target) = target else {
            // The portal group's requirements replace those of the options.
            let group = self.portal_groups.get(&portal_group).map(|group| group.chap);
            return group.filter(|chap| chap.is_set()).unwrap_or(self.options.discovery_chap);
        };
        target.chap
    }

    /// The secrets of a user in the policy's authentication group.
    #[must_use]
    pub fn secret(&self, policy: ChapPolicy, user: &str) -> Option<&Secret> {
        let group = self.auth_groups.get(&policy.group)?;
        group.secrets.iter().find(|secret| secret.user == user)
    }
}
