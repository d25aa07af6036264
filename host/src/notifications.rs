//! Events for `notify_get_notifications`: a ring of the latest ones.

use serde::Serialize;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of events that are kept; older ones are dropped.
const KEPT_MAX: usize = 1024;
/// The maximum number of kinds of events that are remembered.
const KINDS_MAX: usize = 256;

/// The ring. Any thread may use it.
#[derive(Debug)]
pub struct Notifications {
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    kinds: BTreeSet<String>,
    kept: VecDeque<Notification>,
    next_id: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// What happened, such as `bdev_register`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object that it happened to.
    pub ctx: String,
    /// The number of the event, counted from 0.
    pub id: u64,
}

impl Default for Notifications {
    fn default() -> Self {
        let kinds = ["bdev_register", "bdev_resize", "bdev_unregister", "plugin_failed"]
            .map(str::to_owned)
            .into();
        Self { ring: Mutex::new(Ring { kinds, kept: VecDeque::new(), next_id: 0 }) }
    }
}

impl Notifications {
    /// Appends an event.
    pub fn add(&self, kind: &str, ctx: &str) {
        let mut ring = self.lock();
        if ring.kinds.len() < KINDS_MAX && !ring.kinds.contains(kind) {
            ring.kinds.insert(kind.to_owned());
        }
        if ring.kept.len() == KEPT_MAX {
            ring.kept.pop_front();
        }
        let id = ring.next_id;
        ring.next_id += 1;
        ring.kept.push_back(Notification { kind: kind.to_owned(), ctx: ctx.to_owned(), id });
    }

    /// The kinds of events, sorted.
    pub fn kinds(&self) -> Vec<String> {
        self.lock().kinds.iter().cloned().collect()
    }

    /// Returns at most `max` events from number `id` on. Events that the ring has dropped are left out.
    pub fn from(&self, id: u64, max: usize) -> Vec<Notification> {
        let ring = self.lock();
        ring.kept.iter().filter(|event| event.id >= id).take(max).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics between two changes of the ring.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_are_forgotten_and_numbers_go_on() {
        let events = Notifications::default();
        for number in 0..KEPT_MAX + 2 {
            events.add("bdev_register", &number.to_string());
        }
        let first = events.from(0, 1);
        assert_eq!((first[0].id, first[0].ctx.as_str()), (2, "2"));
        assert_eq!(events.from(KEPT_MAX as u64, 100).len(), 2);
        assert!(events.from(u64::MAX, 100).is_empty());
    }

    #[test]
    fn kinds_are_known_before_they_happen_and_plugins_add_theirs() {
        let events = Notifications::default();
        events.add("acme_failed", "x");
        assert_eq!(
            events.kinds(),
            ["acme_failed", "bdev_register", "bdev_resize", "bdev_unregister", "plugin_failed"]
        );
    }
}
