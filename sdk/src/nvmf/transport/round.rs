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
    pub(super) said: RefCell<VecDeque<Said<G::Body>>>,
    pub(super) poller: RefCell<Option<Poller>>,
}

/// A call of the target that the group has not handled yet.
pub(super) enum Said<B> {
    Completed(usize, Request<B>),
    Connected { key: usize, qid: u16, size: u16, sq_flow_control: bool },
    Close(usize),
    Free(usize),
}

impl<G: Group> GroupCell<G> {
    pub(super) fn say(&self, said: Said<G::Body>) {
        self.said.borrow_mut().push_back(said);
    }

    fn next_said(&self) -> Option<Said<G::Body>> {
        self.said.borrow_mut().pop_front()
    }
}

pub(super) struct Round<G: Group>(pub(super) Rc<GroupCell<G>>);

impl<G: Group> Poll for Round<G> {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let Ok(mut group) = self.0.group.try_borrow_mut() else { return false };
        let mut did = group.poll();
        while let Some(said) = self.0.next_said() {
            did = true;
            match said {
                Said::Completed(key, request) => group.completed(key, request),
                Said::Connected { key, qid, size, sq_flow_control } => {
                    group.connected(key, qid, size, sq_flow_control);
                }
                Said::Close(key) => group.close(key),
                Said::Free(key) => group.free(key),
            }
        }
        group.flush() || did
    }

    fn prepare_sleep(&mut self) -> bool {
        let has_said = !self.0.said.borrow().is_empty();
        has_said || self.0.group.try_borrow_mut().is_ok_and(|mut group| group.prepare_sleep())
    }

    fn next_ns(&mut self) -> u64 {
        self.0.group.try_borrow().map_or(u64::MAX, |group| group.next_ns())
    }
}
