//! A group's rounds: the group's own work, and the calls that the target made meanwhile.

use super::registration::Fabric;
use super::{Group, Request};
use crate::poller::{Poll, Poller};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What the target's group pointer points to.
pub(super) struct GroupCell<G: Group> {
    pub(super) fabric: &'static Fabric,
    pub(super) group: RefCell<G>,
    pub(super) events: RefCell<VecDeque<Event<G::Body>>>,
    pub(super) poller: RefCell<Option<Poller>>,
}

/// A call of the target that the group has not handled yet.
pub(super) enum Event<B> {
    Completed(usize, Request<B>),
    Connected { key: usize, qid: u16, size: u16, sq_flow_control: bool },
    Close(usize),
    Free(usize),
}

impl<G: Group> GroupCell<G> {
    pub(super) fn queue_event(&self, event: Event<G::Body>) {
        self.events.borrow_mut().push_back(event);
    }

    fn next_event(&self) -> Option<Event<G::Body>> {
        self.events.borrow_mut().pop_front()
    }
}

pub(super) struct Round<G: Group>(pub(super) Rc<GroupCell<G>>);

impl<G: Group> Poll for Round<G> {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let Ok(mut group) = self.0.group.try_borrow_mut() else { return false };
        let mut did = group.poll();
        while let Some(event) = self.0.next_event() {
            did = true;
            match event {
                Event::Completed(key, request) => group.completed(key, request),
                Event::Connected { key, qid, size, sq_flow_control } => {
                    group.connected(key, qid, size, sq_flow_control);
                }
                Event::Close(key) => group.close(key),
                Event::Free(key) => group.free(key),
            }
        }
        group.flush() || did
    }

    fn prepare_sleep(&mut self) -> bool {
        let has_events = !self.0.events.borrow().is_empty();
        has_events || self.0.group.try_borrow_mut().is_ok_and(|mut group| group.prepare_sleep())
    }

    fn next_ns(&mut self) -> u64 {
        self.0.group.try_borrow().map_or(u64::MAX, |group| group.next_ns())
    }
}
