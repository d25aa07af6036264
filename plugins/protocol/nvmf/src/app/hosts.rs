//! The queues of each host, and the ended queues whose requests may still execute.
//!
//! A host whose controller has ended connects again and sends the unanswered commands again. The first copies must not execute after
//! that, because a late one would overwrite newer data of the host. So a Connect waits here until the ended I/O queues of the same host
//! and subsystem are drained (`docs/retries.md`).

use super::ConnectedQueue;
use crate::controller::QueueId;
use std::collections::BTreeMap;

/// The owner of queues within a subsystem. Two queues are of the same host if the name or the identifier is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The host with this name.
    Name(String),
    /// The host with this identifier.
    Id([u8; 16]),
    /// The controller with this identifier.
    Controller(u16),
}

type Key = (String, Owner);

/// The queues of all hosts. `W` is a waiting Connect.
#[derive(Debug)]
pub(super) struct Hosts<W> {
    owners: BTreeMap<Key, Queues<W>>,
    queues: BTreeMap<QueueId, Registered>,
    /// Number of queues of each host name, in all subsystems.
    counts: BTreeMap<String, usize>,
}

/// The queues of one owner.
#[derive(Debug)]
struct Queues<W> {
    /// Live I/O queues, by poll group.
    live: BTreeMap<usize, usize>,
    /// I/O queues that have ended but are not drained.
    draining: usize,
    waiting: Vec<W>,
}

#[derive(Debug)]
struct Registered {
    hostnqn: String,
    /// Empty for an admin queue, because its commands change no data.
    owners: Vec<Key>,
    is_draining: bool,
}

impl<W> Default for Hosts<W> {
    fn default() -> Self {
        Self { owners: BTreeMap::new(), queues: BTreeMap::new(), counts: BTreeMap::new() }
    }
}

impl<W> Default for Queues<W> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), draining: 0, waiting: Vec::new() }
    }
}

impl<W> Hosts<W> {
    /// Adds an admitted queue.
    pub(super) fn add(&mut self, id: QueueId, queue: &ConnectedQueue) {
        let owners: Vec<Key> = match queue.qid {
            0 => Vec::new(),
            _ => [
                Owner::Name(queue.hostnqn.clone()),
                Owner::Id(queue.hostid),
                Owner::Controller(queue.cntlid),
            ]
            .map(|owner| (queue.nqn.clone(), owner))
            .into(),
        };
        for owner in &owners {
            let queues = self.owners.entry(owner.clone()).or_default();
            *queues.live.entry(id.group).or_default() += 1;
        }
        *self.counts.entry(queue.hostnqn.clone()).or_default() += 1;
        let hostnqn = queue.hostnqn.clone();
        self.queues.insert(id, Registered { hostnqn, owners, is_draining: false });
    }

    /// Marks a queue as ended. Its commands in progress may still execute.
    pub(super) fn drain(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if std::mem::replace(&mut queue.is_draining, true) {
            return;
        }
        for owner in &queue.owners {
            if let Some(queues) = self.owners.get_mut(owner) {
                queues.forget_live(id.group);
                queues.draining += 1;
            }
        }
    }

    /// Removes a queue that has no request left. Returns the Connects that need not wait any more.
    pub(super) fn remove(&mut self, id: QueueId) -> Vec<W> {
        let Some(queue) = self.queues.remove(&id) else { return Vec::new() };
        if let Some(count) = self.counts.get_mut(&queue.hostnqn) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&queue.hostnqn);
            }
        }
        let mut freed = Vec::new();
        for owner in queue.owners {
            let Some(queues) = self.owners.get_mut(&owner) else { continue };
            match queue.is_draining {
                true => queues.draining -= 1,
                false => queues.forget_live(id.group),
            }
            if queues.draining == 0 {
                freed.append(&mut queues.waiting);
            }
            if queues.draining == 0 && queues.live.is_empty() {
                self.owners.remove(&owner);
            }
        }
        freed
    }

    /// The first of `owners` that has an ended I/O queue that is not drained.
    pub(super) fn find_draining(&self, nqn: &str, owners: &[Owner]) -> Option<Owner> {
        let mut owners = owners.iter();
        let is_draining = |owner: &&Owner| {
            let queues = self.owners.get(&(nqn.to_owned(), (*owner).clone()));
            queues.is_some_and(|queues| queues.draining > 0)
        };
        owners.find(is_draining).cloned()
    }

    /// Keeps a Connect until the queues of `owner` are drained.
    pub(super) fn wait(&mut self, nqn: &str, owner: Owner, waiting: W) {
        self.owners.entry((nqn.to_owned(), owner)).or_default().waiting.push(waiting);
    }

    /// The poll groups where one of `owners` has live I/O queues.
    pub(super) fn live_groups(&self, nqn: &str, owners: &[Owner]) -> Vec<usize> {
        let queues = owners.iter().filter_map(|o| self.owners.get(&(nqn.to_owned(), o.clone())));
        let mut groups: Vec<usize> =
            queues.flat_map(|queues| queues.live.keys().copied()).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Number of queues of the host with this name.
    pub(super) fn count(&self, hostnqn: &str) -> usize {
        self.counts.get(hostnqn).copied().unwrap_or(0)
    }

    /// Removes and returns the waiting Connects for which `is_overdue` returns true.
    pub(super) fn take_overdue(&mut self, is_overdue: impl Fn(&W) -> bool) -> Vec<W> {
        let owners = self.owners.values_mut();
        owners.flat_map(|queues| queues.waiting.extract_if(.., |w| is_overdue(w))).collect()
    }

    /// Whether a Connect waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.owners.values().any(|queues| !queues.waiting.is_empty())
    }
}

impl<W> Queues<W> {
    fn forget_live(&mut self, group: usize) {
        if let Some(count) = self.live.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address_of;

    const NQN: &str = "nqn.2016-06.io.spdk:cnode1";

    fn id(group: usize, number: u64) -> QueueId {
        QueueId { group, number }
    }

    fn queue(hostnqn: &str, qid: u16) -> ConnectedQueue {
        let address = address_of("TCP", None, "127.0.0.1", "4420");
        ConnectedQueue {
            nqn: NQN.into(),
            cntlid: 1,
            qid,
            hostnqn: hostnqn.into(),
            hostid: [7; 16],
            local: address.clone(),
            peer: address,
        }
    }

    fn name(hostnqn: &str) -> Owner {
        Owner::Name(hostnqn.into())
    }

    #[test]
    fn a_connect_waits_until_the_last_ended_io_queue_of_its_host_is_drained() {
        let mut hosts: Hosts<u32> = Hosts::default();
        for number in 1..=2 {
            hosts.add(id(0, number), &queue("h", 1));
        }
        assert_eq!(hosts.find_draining(NQN, &[name("h")]), None, "they live");
        hosts.drain(id(0, 1));
        hosts.drain(id(0, 1));
        hosts.drain(id(0, 2));
        assert_eq!(hosts.find_draining(NQN, &[name("x"), name("h")]), Some(name("h")));
        assert_eq!(hosts.find_draining("nqn.2016-06.io.spdk:other", &[name("h")]), None);
        hosts.wait(NQN, name("h"), 5);
        assert!(hosts.remove(id(0, 1)).is_empty());
        assert_eq!(hosts.remove(id(0, 2)), [5]);
        assert!(hosts.owners.is_empty() && hosts.counts.is_empty());
    }

    #[test]
    fn a_host_is_known_again_by_its_identifier_and_a_controller_by_its_own() {
        let mut hosts: Hosts<u32> = Hosts::default();
        hosts.add(id(0, 1), &queue("h", 1));
        hosts.drain(id(0, 1));
        for owner in [Owner::Id([7; 16]), Owner::Controller(1)] {
            assert_eq!(hosts.find_draining(NQN, std::slice::from_ref(&owner)), Some(owner));
        }
    }

    #[test]
    fn an_admin_queue_is_counted_and_keeps_nobody_waiting() {
        let mut hosts: Hosts<u32> = Hosts::default();
        hosts.add(id(0, 1), &queue("h", 0));
        hosts.drain(id(0, 1));
        assert_eq!(hosts.find_draining(NQN, &[name("h")]), None);
        assert_eq!(hosts.count("h"), 1);
        hosts.remove(id(0, 1));
        assert_eq!(hosts.count("h"), 0);
    }

    #[test]
    fn the_groups_of_a_hosts_living_queues_are_known() {
        let mut hosts: Hosts<u32> = Hosts::default();
        for (group, number) in [(2, 1), (0, 2), (2, 3)] {
            hosts.add(id(group, number), &queue("h", 1));
        }
        assert_eq!(hosts.live_groups(NQN, &[name("h"), Owner::Id([7; 16])]), [0, 2]);
        hosts.drain(id(2, 1));
        assert_eq!(hosts.live_groups(NQN, &[name("h")]), [0, 2]);
        hosts.remove(id(2, 3));
        assert_eq!(hosts.live_groups(NQN, &[name("h")]), [0]);
    }

    #[test]
    fn those_that_wait_too_long_are_taken_out() {
        let mut hosts: Hosts<u32> = Hosts::default();
        hosts.add(id(0, 1), &queue("h", 1));
        hosts.drain(id(0, 1));
        for waiting in 1..=3 {
            hosts.wait(NQN, name("h"), waiting);
        }
        assert_eq!(hosts.take_overdue(|waiting| *waiting < 3), [1, 2]);
        assert!(hosts.has_waiting());
        assert_eq!(hosts.remove(id(0, 1)), [3]);
    }
}
