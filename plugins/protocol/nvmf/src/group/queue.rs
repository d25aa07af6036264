//! The target's state of a qpair.

use super::Nvmf;
use super::namespace::{LocalAccess, LocalSubsystem};
use crate::controller::connect::Admitted;
use crate::controller::io_counts::IoCounts;
use drivebay_sdk::nvmf::protocol::Request;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// The state of a queue: New → Connecting → Admin or Io → Ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It accepts only Connect.
    #[default]
    New,
    /// Its Connect waits for the answer of the app thread.
    Connecting,
    /// The admin queue of a controller.
    Admin,
    /// An I/O queue.
    Io,
    /// The connection has ended.
    Ended,
}

/// A queue's state, on its poll group's thread.
#[derive(Debug, Default)]
pub struct Queue {
    /// Its state.
    pub phase: Cell<Phase>,
    /// Maximum number of bytes of data of one command.
    pub max_io_size: Cell<u32>,
    /// Identifier of the host.
    pub hostid: Cell<[u8; 16]>,
    entries: Cell<u16>,
    head: Cell<u16>,
    has_flow_control: Cell<bool>,
    subsystem: OnceCell<Rc<LocalSubsystem>>,
    access: OnceCell<Rc<LocalAccess>>,
    counts: OnceCell<Arc<IoCounts>>,
    /// Requests that wait for an answer of the app thread, with their numbers. At most as many as the queue has entries.
    parked: RefCell<Vec<(u64, Request<Nvmf>)>>,
}

impl Queue {
    /// Makes the connection a queue.
    pub fn admit(
        &self,
        admitted: &Admitted,
        subsystem: Rc<LocalSubsystem>,
        counts: Arc<IoCounts>,
        max_io_size: u32,
    ) {
        self.phase.set(if admitted.qid == 0 { Phase::Admin } else { Phase::Io });
        self.entries.set(admitted.entries);
        self.has_flow_control.set(admitted.has_flow_control);
        self.max_io_size.set(max_io_size);
        self.hostid.set(admitted.hostid);
        // A queue is admitted once: only the state New accepts a Connect, and only a refusal leads back to New.
        if let Some(access) = admitted.portid.and_then(|portid| subsystem.access(portid)) {
            let _ = self.access.set(access);
        }
        let _ = self.subsystem.set(subsystem);
        let _ = self.counts.set(counts);
    }

    /// The subsystem, once the queue is admitted.
    #[inline]
    pub fn subsystem(&self) -> Option<&Rc<LocalSubsystem>> {
        self.subsystem.get()
    }

    /// How the queue's listener serves the ANA groups; `None` when the subsystem does not report ANA.
    #[inline]
    pub fn access(&self) -> Option<&LocalAccess> {
        self.access.get().map(AsRef::as_ref)
    }

    /// The counters of its reads and writes, once the queue is admitted.
    #[inline]
    pub fn counts(&self) -> Option<&IoCounts> {
        self.counts.get().map(AsRef::as_ref)
    }

    /// Keeps a request until its answer comes.
    pub(super) fn park(&self, number: u64, request: Request<Nvmf>) {
        self.parked.borrow_mut().push((number, request));
    }

    /// Removes a request to answer it; `None` when the queue has ended.
    pub(super) fn unpark(&self, number: u64) -> Option<Request<Nvmf>> {
        let mut parked = self.parked.borrow_mut();
        let place = parked.iter().position(|(parked, _)| *parked == number)?;
        Some(parked.swap_remove(place).1)
    }

    /// Removes all requests that wait for an answer.
    pub(super) fn take_parked(&self) -> impl Iterator<Item = Request<Nvmf>> + use<> {
        self.parked.take().into_iter().map(|(_, request)| request)
    }

    /// Returns the submission queue head after one more command; 0 without flow control.
    #[inline]
    pub fn advance(&self) -> u16 {
        if !self.has_flow_control.get() {
            return 0;
        }
        let next = self.head.get() + 1;
        let next = if next >= self.entries.get() { 0 } else { next };
        self.head.set(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(entries: u16, has_flow_control: bool) -> Queue {
        let queue = Queue::default();
        let nqn = "nqn.2016-06.io.spdk:cnode1".into();
        let admitted = Admitted {
            nqn,
            portid: None,
            cntlid: 1,
            qid: 1,
            entries,
            has_flow_control,
            hostid: [0; 16],
        };
        queue.admit(&admitted, Rc::default(), Arc::default(), 131_072);
        queue
    }

    #[test]
    fn the_head_goes_round() {
        let queue = queue(3, true);
        assert_eq!([(); 4].map(|()| queue.advance()), [1, 2, 0, 1]);
        assert_eq!(queue.phase.get(), Phase::Io);
    }

    #[test]
    fn without_flow_control_the_head_is_not_reported() {
        assert_eq!(queue(3, false).advance(), 0);
        assert_eq!(Queue::default().advance(), 0);
    }
}
