//! A reactor without its own OS thread, for simulations. Its owner decides which lightweight thread
//! runs next, how many messages it takes, and what time it is. The same decisions give the same
//! run. Other reactors are not affected.

use super::thread::{Moving, Thread};
use super::{CURRENT, Mode, Reactor, all, clock, publish};
use crate::env::CpuSet;
use crate::{Error, Result};
use crossbeam_channel::Receiver;
use std::rc::Rc;
use std::sync::Arc;

/// The only reactor of the process. Its owner steps it.
#[derive(Debug)]
pub struct Stepped {
    reactor: Arc<Reactor>,
    inbox: Receiver<Moving>,
    threads: Vec<Rc<Thread>>,
}

impl Stepped {
    /// Creates the reactor and the app thread, and sets the clock to 1 ns. Only once in a process,
    /// instead of [`super::start`].
    ///
    /// # Errors
    /// As for [`super::start`].
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

    /// The ids of the threads that can run, including threads that have just arrived. The order
    /// changes when a thread ends.
    pub fn threads(&mut self) -> impl Iterator<Item = u64> {
        while let Ok(thread) = self.inbox.try_recv() {
            self.threads.push(thread.settle(&self.reactor));
        }
        self.threads.iter().map(|thread| thread.id())
    }

    /// Runs one round of a thread, with at most `most_messages` messages. Returns whether it found
    /// work. A thread that has ended leaves the reactor. If the thread is not on this reactor,
    /// nothing happens.
    pub fn round(&mut self, thread: u64, most_messages: usize) -> bool {
        let Some(index) = self.threads.iter().position(|other| other.id() == thread) else {
            return false;
        };
        let Some(thread) = self.threads.get(index) else { return false };
        let busy = thread.round(most_messages);
        if thread.is_leaving() {
            self.threads.swap_remove(index).depart();
        }
        busy
    }
}
