//! A reactor without an OS thread of its own: who has it decides which lightweight thread runs next,
//! how many messages it takes and what time it is. For simulations, which are the same again for the
//! same decisions. Nothing of the other reactors' way changes for it.

use super::thread::{Moving, Thread};
use super::{CURRENT, Mode, Reactor, all, clock, publish};
use crate::env::CpuSet;
use crate::{Error, Result};
use crossbeam_channel::Receiver;
use std::rc::Rc;
use std::sync::Arc;

/// The only reactor of the process, stepped by its owner.
#[derive(Debug)]
pub struct Stepped {
    reactor: Arc<Reactor>,
    inbox: Receiver<Moving>,
    threads: Vec<Rc<Thread>>,
}

impl Stepped {
    /// Makes the reactor and the app thread; the clock stands at 1 ns. Once per process, instead of
    /// [`super::start`].
    ///
    /// # Errors
    /// As [`super::start`].
    pub fn start() -> Result<Self> {
        let mut inboxes = publish(&CpuSet::one(0), Mode::Polled)?;
        let (Some(inbox), Some(reactor)) = (inboxes.pop(), all().first()) else {
            return Err(Error::new(libc::EINVAL, "there is no reactor to step"));
        };
        CURRENT.set(Some(Arc::clone(reactor)));
        clock::set(1);
        Ok(Self { reactor: Arc::clone(reactor), inbox, threads: Vec::new() })
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_clock(&self, now_ns: u64) {
        clock::set(now_ns);
    }

    /// Ids of the threads that can run, those that arrived meanwhile included. Ends change the order.
    pub fn threads(&mut self) -> impl Iterator<Item = u64> {
        while let Ok(thread) = self.inbox.try_recv() {
            self.threads.push(thread.settle(&self.reactor));
        }
        self.threads.iter().map(|thread| thread.id())
    }

    /// One round of a thread, with at most `most_messages` messages; whether it found work. A thread
    /// that is done leaves. Nothing happens for a thread that is not here.
    pub fn round(&mut self, thread: u64, most_messages: usize) -> bool {
        let Some(index) = self.threads.iter().position(|other| other.id() == thread) else {
            return false;
        };
        let Some(thread) = self.threads.get(index) else { return false };
        let busy = thread.round(most_messages);
        if thread.leaves() {
            self.threads.swap_remove(index).depart();
        }
        busy
    }
}
