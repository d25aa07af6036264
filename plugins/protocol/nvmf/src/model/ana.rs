//! Asymmetric namespace access (ANA): how well a listener serves each group of namespaces. NVMe Base 2.0, section 8.1.

use drivebay_spec_nvme::Status;
pub use drivebay_spec_nvme::log::AnaState;
use std::collections::BTreeMap;

/// How a listener serves the ANA groups of its subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Applies to the groups that are not in `groups`.
    default: Group,
    groups: BTreeMap<u32, Group>,
    /// Number of changes of the ANA log of the listener's controllers.
    change_count: u64,
}

/// How a listener serves one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// State of the group.
    pub state: AnaState,
    /// The log's change count at the group's last change; 0 when it never changed.
    pub change_count: u64,
}

impl Access {
    /// Puts all groups into one state.
    pub fn new(state: AnaState) -> Self {
        let default = Group { state, change_count: 0 };
        Self { default, groups: BTreeMap::new(), change_count: 0 }
    }

    /// How the listener serves one group.
    pub fn group(&self, group: u32) -> Group {
        self.groups.get(&group).copied().unwrap_or(self.default)
    }

    /// The state of one group.
    pub fn state(&self, group: u32) -> AnaState {
        self.group(group).state
    }

    /// The state of all groups that are not in [`exceptions`](Self::exceptions).
    pub fn default_state(&self) -> AnaState {
        self.default.state
    }

    /// The groups whose state is not [`default_state`](Self::default_state).
    pub fn exceptions(&self) -> impl Iterator<Item = (u32, AnaState)> + '_ {
        let groups = self.groups.iter().map(|(group, access)| (*group, access.state));
        groups.filter(|(_, state)| *state != self.default.state)
    }

    /// Number of changes of the log.
    pub fn change_count(&self) -> u64 {
        self.change_count
    }

    /// Sets the state of one group, or of all groups. Returns whether this changes anything.
    pub fn set(&mut self, group: Option<u32>, state: AnaState) -> bool {
        let is_same = match group {
            Some(group) => self.state(group) == state,
            None => self.default.state == state && self.exceptions().next().is_none(),
        };
        if is_same {
            return false;
        }
        self.change_count += 1;
        let now = Group { state, change_count: self.change_count };
        match group {
            Some(group) => drop(self.groups.insert(group, now)),
            None => {
                self.groups.clear();
                self.default = now;
            }
        }
        true
    }

    /// Counts a change of the log, because a namespace has joined or left a group.
    pub fn namespaces_changed(&mut self, group: u32) {
        self.change_count += 1;
        let state = self.state(group);
        self.groups.insert(group, Group { state, change_count: self.change_count });
    }

    /// Whether the listener refuses the I/O of any group.
    pub fn refuses_any(&self) -> bool {
        let states = self.groups.values().chain([&self.default]).map(|group| group.state);
        states.into_iter().any(|state| refusal(state).is_some())
    }
}

/// The status for I/O of a group in this state; `None` when the I/O is served.
pub fn refusal(state: AnaState) -> Option<Status> {
    match state {
        AnaState::Optimized | AnaState::NonOptimized => None,
        AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
        AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
        AnaState::Change => Some(Status::ANA_TRANSITION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AnaState::{Inaccessible, NonOptimized, Optimized};

    #[test]
    fn a_group_keeps_its_own_state_until_all_are_set() {
        let mut access = Access::new(Optimized);
        assert!(access.set(Some(3), Inaccessible));
        assert_eq!((access.state(3), access.state(4)), (Inaccessible, Optimized));
        assert_eq!(access.exceptions().collect::<Vec<_>>(), [(3, Inaccessible)]);
        assert!(access.refuses_any());
        assert!(access.set(None, NonOptimized));
        assert_eq!((access.state(3), access.exceptions().count()), (NonOptimized, 0));
        assert!(!access.refuses_any());
    }

    #[test]
    fn changes_are_counted_and_what_stays_the_same_is_not_one() {
        let mut access = Access::new(Optimized);
        assert!(!access.set(None, Optimized) && !access.set(Some(1), Optimized));
        assert_eq!(access.change_count(), 0);
        access.set(Some(1), Inaccessible);
        access.namespaces_changed(2);
        assert_eq!((access.group(1).change_count, access.group(2).change_count), (1, 2));
        assert_eq!((access.change_count(), access.state(2)), (2, Optimized));
    }
}
