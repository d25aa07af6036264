//! Reservation notifications of a controller: its log page and its mask. NVMe Base 2.0, sections 5.16.1.15 and 5.27.1.23.

use drivebay_spec_nvme::NSID_ALL;
use drivebay_spec_nvme::reservation::{Notification, notification_page};
use std::collections::{BTreeMap, VecDeque};

/// Maximum number of notifications that wait for the host. Further ones replace the oldest.
const WAITING_MAX: usize = 64;

/// The notifications of a controller.
#[derive(Debug, Default)]
pub struct Notifications {
    /// The log page count, the notification, and the namespace.
    waiting: VecDeque<(u64, Notification, u32)>,
    count: u64,
    /// The masked notifications, as bits, by namespace.
    masks: BTreeMap<u32, u32>,
}

impl Notifications {
    /// Adds a notification. Returns `false` if the host has masked it.
    pub fn add(&mut self, notification: Notification, nsid: u32) -> bool {
        if self.mask(nsid) & notification.mask_bit() != 0 {
            return false;
        }
        // A count of 0 means an empty page.
        self.count = self.count.wrapping_add(1).max(1);
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((self.count, notification, nsid));
        true
    }

    /// The log page, with the oldest notification.
    pub fn page(&self) -> [u8; 64] {
        match self.waiting.front() {
            Some((count, notification, nsid)) => {
                notification_page(*count, Some((*notification, *nsid)), self.waiting.len() - 1)
            }
            None => notification_page(0, None, 0),
        }
    }

    /// Removes the notification that the host has read.
    pub fn was_read(&mut self) {
        self.waiting.pop_front();
    }

    /// The mask of a namespace.
    pub fn mask(&self, nsid: u32) -> u32 {
        self.masks.get(&nsid).or_else(|| self.masks.get(&NSID_ALL)).copied().unwrap_or(0)
    }

    /// Sets the mask of a namespace, or of all namespaces.
    pub fn set_mask(&mut self, nsid: u32, mask: u32) {
        if nsid == NSID_ALL {
            self.masks.clear();
        }
        self.masks.insert(nsid, mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_read_oldest_first_and_the_oldest_ones_go_when_there_are_too_many() {
        let mut all = Notifications::default();
        assert_eq!(all.page(), [0; 64]);
        for nsid in (0..).take(WAITING_MAX + 1) {
            assert!(all.add(Notification::ReservationReleased, nsid));
        }
        let page = all.page();
        assert_eq!((page[0], page[8], page[9], page[12]), (2, 2, 63, 1));
        all.was_read();
        assert_eq!((all.page()[0], all.page()[9]), (3, 62));
    }

    #[test]
    fn a_host_hears_nothing_of_what_it_masked() {
        let mut all = Notifications::default();
        all.set_mask(NSID_ALL, Notification::ReservationReleased.mask_bit());
        all.set_mask(2, 0);
        assert!(!all.add(Notification::ReservationReleased, 1));
        assert!(all.add(Notification::ReservationReleased, 2));
        assert!(all.add(Notification::RegistrationPreempted, 1));
    }
}
