//! A controller: the association of one host with a subsystem. NVMe Base 2.0, section 3.1.
//!
//! Only state and decisions, without I/O. [`connect`] admits a queue. [`property`] enables and resets. [`admin`] answers admin commands
//! with [`identify`], [`features`], [`log_page`] and [`events`]. The app thread owns all controllers. A poll group knows only the host and the
//! subsystem of a queue.

pub mod admin;
pub mod connect;
pub mod error_log;
pub mod events;
pub mod features;
pub mod identify;
pub mod io_counts;
pub mod log_page;
pub mod notification;
pub mod property;

use crate::model::{ControllerKind, TransportLimits};
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::property::{Cc, Csts};
use drivebay_spec_nvme::reservation::Notification;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One host's controller.
#[derive(Debug)]
pub struct Controller {
    /// Identifier within the subsystem.
    pub cntlid: u16,
    /// Namespaces, or the discovery log.
    pub kind: ControllerKind,
    /// The host's name.
    pub hostnqn: String,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// The address that the host connected to.
    pub listener: Address,
    /// The limits of its transport.
    pub limits: TransportLimits,
    /// Configuration.
    pub cc: Cc,
    /// Status.
    pub csts: Csts,
    /// Queues, by their identifier; the admin queue is 0.
    pub queues: BTreeMap<u16, QueueId>,
    /// The counters of its I/O queues, including ended ones.
    pub io_counts: BTreeMap<u16, Arc<io_counts::IoCounts>>,
    /// Values of features.
    pub features: features::Features,
    /// Asynchronous events.
    pub events: events::Events<Ticket>,
    /// The log of failed commands.
    pub errors: error_log::ErrorLog,
    /// Namespaces that have changed since the host last read the list.
    pub changed_namespaces: BTreeSet<u32>,
    /// Reservation notifications for the host.
    pub notifications: notification::Notifications,
    /// Time of the host's last admin command, in nanoseconds.
    pub heard_ns: u64,
    /// Whether the host has exceeded the keep alive timeout. The target checks the sockets once more before it ends the controller.
    pub is_suspect: bool,
}

/// A qpair: its poll group and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// Index of the poll group.
    pub group: usize,
    /// Number of the qpair, never used twice.
    pub number: u64,
}

/// Names a request that its poll group keeps until the app thread answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The queue of the request.
    pub queue: QueueId,
    /// Number in the poll group, never used twice.
    pub number: u64,
    /// Its command identifier.
    pub cid: u16,
}

impl Controller {
    /// Number of connected I/O queues.
    pub fn num_io_queues(&self) -> usize {
        self.queues.keys().filter(|qid| **qid != 0).count()
    }

    /// The counters of a queue.
    pub fn io_counts_of(&mut self, qid: u16) -> Arc<io_counts::IoCounts> {
        Arc::clone(self.io_counts.entry(qid).or_default())
    }

    /// The I/O queues.
    pub fn io_queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.queues.iter().filter(|(qid, _)| **qid != 0).map(|(_, queue)| *queue)
    }

    /// Records that a namespace was added, removed or changed. Returns the request to answer, if one waits.
    pub fn namespace_changed(&mut self, nsid: u32) -> Option<(Ticket, AsyncEvent)> {
        if !self.csts.rdy || self.kind != ControllerKind::Io {
            return None;
        }
        self.changed_namespaces.insert(nsid);
        let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
        self.events.notify(event).map(|request| (request, event))
    }

    /// Records that the ANA log has changed. Returns the request to answer, if one waits.
    pub fn ana_changed(&mut self) -> Option<(Ticket, AsyncEvent)> {
        if !self.csts.rdy || self.kind != ControllerKind::Io {
            return None;
        }
        let event = AsyncEvent::ANA_CHANGE;
        self.events.notify(event).map(|request| (request, event))
    }

    /// Records a notification about the reservation of a namespace. Returns the request to answer, if one waits.
    pub fn reservation_changed(
        &mut self,
        notification: Notification,
        nsid: u32,
    ) -> Option<(Ticket, AsyncEvent)> {
        if !self.csts.rdy || !self.notifications.add(notification, nsid) {
            return None;
        }
        let event = AsyncEvent::RESERVATION_LOG_AVAILABLE;
        self.events.notify(event).map(|request| (request, event))
    }

    /// Records that the discovery log has changed. Returns the request to answer, if one waits.
    pub fn discovery_changed(&mut self) -> Option<(Ticket, AsyncEvent)> {
        if !self.csts.rdy || self.kind != ControllerKind::Discovery {
            return None;
        }
        let event = AsyncEvent::DISCOVERY_LOG_CHANGE;
        self.events.notify(event).map(|request| (request, event))
    }

    /// Resets features and events for a controller reset. Returns the requests to abort.
    pub fn reset(&mut self) -> Vec<Ticket> {
        self.features = features::Features::new(self.features.kato_ms);
        self.changed_namespaces.clear();
        self.notifications = notification::Notifications::default();
        self.events.reset()
    }

    /// Whether the host was silent for longer than its keep alive timeout.
    pub fn has_timed_out(&self, now_ns: u64) -> bool {
        let timeout_ns = u64::from(self.features.kato_ms) * 1_000_000;
        timeout_ns != 0 && now_ns.saturating_sub(self.heard_ns) > timeout_ns
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::address_of;

    /// A controller as it is after Connect.
    pub(crate) fn controller() -> Controller {
        Controller {
            cntlid: 1,
            kind: ControllerKind::Io,
            hostnqn: "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6".into(),
            hostid: [7; 16],
            listener: address_of("TCP", None, "127.0.0.1", "4420"),
            limits: TransportLimits::default(),
            cc: Cc::default(),
            csts: Csts::default(),
            queues: BTreeMap::from([(0, QueueId { group: 0, number: 1 })]),
            io_counts: BTreeMap::new(),
            features: features::Features::new(10_000),
            events: events::Events::default(),
            errors: error_log::ErrorLog::default(),
            changed_namespaces: BTreeSet::new(),
            notifications: notification::Notifications::default(),
            heard_ns: 0,
            is_suspect: false,
        }
    }

    pub(crate) fn ticket(number: u64) -> Ticket {
        Ticket { queue: QueueId { group: 0, number: 1 }, number, cid: 100 }
    }

    /// The same, enabled.
    pub(crate) fn ready() -> Controller {
        Controller { csts: Csts { rdy: true, ..Csts::default() }, ..controller() }
    }

    #[test]
    fn a_host_that_is_silent_too_long_has_timed_out() {
        let mut controller = Controller { heard_ns: 1_000, ..ready() };
        assert!(!controller.has_timed_out(10_000_001_000));
        assert!(controller.has_timed_out(10_000_001_001));
        controller.features.kato_ms = 0;
        assert!(!controller.has_timed_out(u64::MAX));
    }

    #[test]
    fn a_changed_namespace_is_listed_and_reported_once() {
        let mut controller = ready();
        controller.events.request(ticket(5));
        controller.events.request(ticket(6));
        let reported = controller.namespace_changed(3).unwrap();
        assert_eq!(reported, (ticket(5), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
        assert_eq!(controller.namespace_changed(4), None);
        assert_eq!(controller.changed_namespaces, BTreeSet::from([3, 4]));
    }

    #[test]
    fn a_reservation_that_was_preempted_is_reported_and_is_in_the_log() {
        let mut controller = ready();
        controller.events.configuration = 0; // has no bit for it
        controller.events.request(ticket(5));
        let reported = controller.reservation_changed(Notification::RegistrationPreempted, 3);
        assert_eq!(reported, Some((ticket(5), AsyncEvent::RESERVATION_LOG_AVAILABLE)));
        assert_eq!(
            (controller.notifications.page()[8], controller.notifications.page()[12]),
            (1, 3)
        );
        assert!(controller.reset().is_empty());
        assert_eq!(controller.notifications.page(), [0; 64]);
    }

    #[test]
    fn a_controller_that_is_not_ready_tells_nothing() {
        let mut controller = controller();
        controller.events.request(ticket(5));
        assert_eq!(controller.namespace_changed(3), None);
        assert_eq!(ready().discovery_changed(), None);
    }
}
