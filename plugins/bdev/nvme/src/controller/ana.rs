//! Asymmetric namespace access (ANA): how well a controller serves each namespace. `[app thread]`

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::NSID_ALL;
use drivebay_nvme_driver::spec::identify::cmic;
use drivebay_nvme_driver::spec::log::{AnaGroup, AnaHeader, AnaState, lid};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;

use super::Controller;
use crate::admin::Admin;
use crate::path::{Access, State};

/// Lengths in the log, in bytes.
const HEADER_LEN: u32 = 16;
const GROUP_LEN: u32 = 32;
const _: () = assert!(HEADER_LEN as usize == AnaHeader::LEN && GROUP_LEN as usize == AnaGroup::LEN);
/// The maximum length of the log that is read, in bytes.
const LOG_LEN_MAX: u32 = 1 << 20;
/// Maximum number of namespaces in the log. The length of the log that is read depends on it.
const NAMESPACES_MAX: u32 = 4096;
/// Minimum time between two reads of the log that channels ask for.
const DOUBT_DELAY: Duration = Duration::from_millis(100);
/// How long to wait before the log is read again after a read has failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Controller {
    /// Reads the log, if the controller reports ANA. NVMe Base 2.0, section 5.16.1.13.
    pub(super) async fn read_ana(&self, admin: &Admin) -> Result<()> {
        let data = self.data();
        if data.cmic & cmic::ANA == 0 {
            self.ana.replace(None);
            return Ok(());
        }
        let namespaces = if data.mnan > 0 { data.mnan } else { data.nn }.min(NAMESPACES_MAX);
        let groups = data.nanagrpid.saturating_mul(GROUP_LEN);
        let len = groups.saturating_add(HEADER_LEN + namespaces * 4).min(LOG_LEN_MAX);
        let log = admin.log_page(lid::ANA, NSID_ALL, 0, len).await?;
        self.ana.replace(Some(parse(&log)));
        Ok(())
    }

    /// How well the controller serves a namespace.
    pub(super) fn access(&self, nsid: u32) -> Access {
        match &*self.ana.borrow() {
            None => Access::Optimized,
            Some(states) => match states.get(&nsid) {
                Some(AnaState::Optimized) => Access::Optimized,
                Some(AnaState::NonOptimized) => Access::NonOptimized,
                _ => Access::Inaccessible,
            },
        }
    }

    /// The reference's word for a namespace's state; `None` when the controller does not report ANA.
    pub(crate) fn ana_state(&self, nsid: u32) -> Option<&'static str> {
        let states = self.ana.borrow();
        Some(match states.as_ref()?.get(&nsid) {
            Some(AnaState::Optimized) => "optimized",
            Some(AnaState::NonOptimized) => "non_optimized",
            Some(AnaState::PersistentLoss) => "persistent_loss",
            Some(AnaState::Change) => "change",
            Some(AnaState::Inaccessible) | None => "inaccessible",
        })
    }

    /// Reads the log again, and tells the channels; false when it could not be read.
    pub(super) async fn ana_changed(&self, admin: &Admin) -> bool {
        if let Err(error) = self.read_ana(admin).await {
            warn!("{}: the ANA log could not be read: {}", self.name, error.message());
            return false;
        }
        if let (_, State::Live(live)) = self.path.state() {
            live.update_access(|nsid| self.access(nsid));
            self.path.touch();
        }
        true
    }

    /// Reads the log again when a command has ended with an ANA status that its channel did not expect.
    pub(super) async fn watch_ana(self: Rc<Self>, admin: Rc<Admin>) {
        loop {
            self.path.ana_is_doubted().await;
            // A channel that saw such a status does not use the leg until the log has been read.
            while !self.ana_changed(&admin).await {
                task::sleep(RETRY_DELAY).await;
            }
            task::sleep(DOUBT_DELAY).await;
        }
    }
}

/// The states of the namespaces. Namespaces with an unknown state, and those that a short log cuts off, are left out.
fn parse(log: &[u8]) -> BTreeMap<u32, AnaState> {
    let mut states = BTreeMap::new();
    let Some((header, mut rest)) = log.split_first_chunk() else { return states };
    for _ in 0..AnaHeader::parse(header).num_groups {
        let Some((group, after)) = rest.split_first_chunk() else { break };
        let group = AnaGroup::parse(group);
        let state = match group.state & 0xf {
            1 => Some(AnaState::Optimized),
            2 => Some(AnaState::NonOptimized),
            3 => Some(AnaState::Inaccessible),
            4 => Some(AnaState::PersistentLoss),
            15 => Some(AnaState::Change),
            _ => None,
        };
        let (nsids, _) = after.as_chunks::<4>();
        let nsids = nsids.get(..group.num_nsids as usize).unwrap_or(nsids);
        let all = nsids.iter().map(|nsid| u32::from_le_bytes(*nsid));
        states.extend(all.filter_map(|nsid| Some((nsid, state?))));
        rest = after.get(nsids.len() * 4..).unwrap_or_default();
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(groups: &[(u8, &[u32])]) -> Vec<u8> {
        let num_groups = u16::try_from(groups.len()).unwrap();
        let mut log = AnaHeader { num_groups, ..AnaHeader::default() }.encode().to_vec();
        for (state, nsids) in groups {
            let num_nsids = u32::try_from(nsids.len()).unwrap();
            log.extend(AnaGroup { num_nsids, state: *state, ..AnaGroup::default() }.encode());
            nsids.iter().for_each(|nsid| log.extend(nsid.to_le_bytes()));
        }
        log
    }

    #[test]
    fn each_namespace_has_the_state_of_its_group() {
        let states = parse(&log(&[(1, &[1, 7]), (2, &[]), (3, &[2]), (9, &[3]), (15, &[4])]));
        let expected = [
            (1, AnaState::Optimized),
            (2, AnaState::Inaccessible),
            (4, AnaState::Change),
            (7, AnaState::Optimized),
        ];
        assert_eq!(states, BTreeMap::from(expected));
    }

    #[test]
    fn a_log_that_is_cut_off_or_lies_about_its_lengths_is_read_as_far_as_it_goes() {
        let whole = log(&[(1, &[1]), (2, &[2])]);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).len() < 2, "{len}");
        }
        let mut lying = whole;
        lying[16 + 4..16 + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        // Everything after the header of the first group is taken for its namespaces.
        assert!(parse(&lying).values().all(|state| *state == AnaState::Optimized));
    }
}
