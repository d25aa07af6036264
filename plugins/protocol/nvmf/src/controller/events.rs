//! Asynchronous events: waiting requests, waiting events, and the mask of events. NVMe Base 2.0, section 5.2.

use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::feature::async_event;
use std::collections::VecDeque;

/// Maximum number of Asynchronous Event Requests that may wait at the same time.
pub const REQUESTS_MAX: usize = 4;

/// The events of a controller.
///
/// `R` names a waiting request. After an event of a log page was sent, the controller drops further events of that page until the host has
/// read the page. The host then reads the newest state anyway.
#[derive(Debug)]
pub struct Events<R> {
    waiting: VecDeque<R>,
    pending: Vec<AsyncEvent>,
    sent: Vec<AsyncEvent>,
    /// Bits of [`async_event`] that the host wants.
    pub configuration: u32,
}

/// The outcome of an Asynchronous Event Request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It waits for an event.
    Waits,
    /// This event was waiting for it.
    Event(AsyncEvent),
    /// [`REQUESTS_MAX`] requests already wait.
    TooMany,
}

impl<R> Default for Events<R> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            pending: Vec::new(),
            sent: Vec::new(),
            configuration: async_event::NAMESPACE_ATTRIBUTE
                | async_event::DISCOVERY_LOG_CHANGE
                | async_event::ANA_CHANGE,
        }
    }
}

impl<R: Copy + PartialEq> Events<R> {
    /// Handles a new request. The caller keeps the request of [`Answer::Waits`].
    pub fn request(&mut self, request: R) -> Answer {
        if !self.pending.is_empty() {
            let event = self.pending.remove(0);
            self.sent.push(event);
            return Answer::Event(event);
        }
        if self.waiting.len() >= REQUESTS_MAX {
            return Answer::TooMany;
        }
        self.waiting.push_back(request);
        Answer::Waits
    }

    /// Records an event. Returns the request to complete with it, if one waits and the host has not masked the event.
    pub fn notify(&mut self, event: AsyncEvent) -> Option<R> {
        // Reservation notifications have a mask of their own.
        let is_wanted = event == AsyncEvent::RESERVATION_LOG_AVAILABLE
            || self.configuration & wanted_bit(event) != 0;
        if !is_wanted || self.sent.contains(&event) || self.pending.contains(&event) {
            return None;
        }
        match self.waiting.pop_front() {
            Some(request) => {
                self.sent.push(event);
                Some(request)
            }
            None => {
                self.pending.push(event);
                None
            }
        }
    }

    /// Records that the host has read a log page, so that the page's event may be sent again.
    pub fn log_was_read(&mut self, lid: u8) {
        self.sent.retain(|event| event.lid != lid);
        self.pending.retain(|event| event.lid != lid);
    }

    /// Removes a waiting request, to abort it.
    pub fn take(&mut self, is_it: impl Fn(&R) -> bool) -> Option<R> {
        let place = self.waiting.iter().position(is_it)?;
        self.waiting.remove(place)
    }

    /// Resets everything for a controller reset. Returns the waiting requests, to abort them.
    pub fn reset(&mut self) -> Vec<R> {
        let waiting = self.waiting.drain(..).collect();
        *self = Self::default();
        waiting
    }
}

const fn wanted_bit(event: AsyncEvent) -> u32 {
    match event {
        AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED => async_event::NAMESPACE_ATTRIBUTE,
        AsyncEvent::DISCOVERY_LOG_CHANGE => async_event::DISCOVERY_LOG_CHANGE,
        AsyncEvent::ANA_CHANGE => async_event::ANA_CHANGE,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_spec_nvme::log::lid;

    const CHANGED: AsyncEvent = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;

    #[test]
    fn an_event_goes_to_the_request_that_waited_longest() {
        let mut events = Events::default();
        assert_eq!((events.request(1), events.request(2)), (Answer::Waits, Answer::Waits));
        assert_eq!(events.notify(CHANGED), Some(1));
    }

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = Events::default();
        assert_eq!(events.notify(CHANGED), None);
        assert_eq!(events.request(1), Answer::Event(CHANGED));
        assert_eq!(events.request(2), Answer::Waits);
    }

    #[test]
    fn an_event_is_not_repeated_until_its_log_page_was_read() {
        let mut events = Events::default();
        for request in 1..=3 {
            events.request(request);
        }
        assert_eq!(events.notify(CHANGED), Some(1));
        assert_eq!(events.notify(CHANGED), None);
        events.log_was_read(lid::DISCOVERY);
        assert_eq!(events.notify(CHANGED), None);
        events.log_was_read(lid::CHANGED_NAMESPACES);
        assert_eq!(events.notify(CHANGED), Some(2));
    }

    #[test]
    fn a_fifth_request_is_one_too_many() {
        let mut events = Events::default();
        for request in 0..4 {
            assert_eq!(events.request(request), Answer::Waits);
        }
        assert_eq!(events.request(4), Answer::TooMany);
    }

    #[test]
    fn an_event_that_the_host_switched_off_is_dropped() {
        let mut events = Events { configuration: 0, ..Events::default() };
        events.request(1);
        assert_eq!(events.notify(CHANGED), None);
        assert_eq!(events.request(2), Answer::Waits);
    }

    #[test]
    fn a_reset_gives_back_what_waits_and_forgets_the_rest() {
        let mut events = Events::default();
        events.request(1);
        events.notify(CHANGED);
        events.request(2);
        assert_eq!(events.reset(), [2]);
        events.request(3);
        assert_eq!(events.notify(CHANGED), Some(3));
    }
}
