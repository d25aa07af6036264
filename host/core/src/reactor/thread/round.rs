//! What a thread does in each round, and before its reactor sleeps.

use super::{CURRENT, Thread};
use crate::bdev::path::round;
use crate::reactor::clock;
use crate::reactor::poller::{Poller, State};
use drivebay_plugin_api::bay_msg;
use std::ptr;
use std::rc::Rc;

/// The maximum number of messages that one round takes, so that pollers get their turn.
pub(in crate::reactor) const MESSAGES_PER_ROUND: usize = 64;

impl Thread {
    /// Runs one round. Returns whether there was work.
    pub(in crate::reactor) fn round(&self, most_messages: usize) -> bool {
        CURRENT.set(self);
        let now = clock::now();
        // The time that the last round took, and the sleep after it. A sleep only follows an idle
        // round.
        let spent = now.saturating_sub(self.last_ns.replace(now));
        let counter = if self.was_busy.get() { &self.busy_ns } else { &self.idle_ns };
        counter.set(counter.get() + spent);
        if self.is_asleep.replace(false) {
            for poller in self.pollers() {
                self.shared.doing().begin(poller.function(), poller.id);
                poller.woke();
            }
        }
        let mut busy = self.run_messages(most_messages);
        busy |= self.run_pollers(now);
        round::end(&self.bdevs);
        self.was_busy.set(busy);
        self.shared.doing().end();
        CURRENT.set(ptr::null());
        busy
    }

    fn run_messages(&self, most: usize) -> bool {
        for taken in 0..most {
            let Some(msg) = self.shared.queue.pop() else { return taken > 0 };
            // SAFETY: the receiver owns a popped message, and the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            if let Some(call) = call {
                self.shared.doing().begin(call as usize, 0);
                // SAFETY: the function and its argument belong together (contract of `send`).
                unsafe { call(arg) };
            }
        }
        true
    }

    /// Iterates by index, because a poller may add and remove pollers, even itself.
    fn pollers(&self) -> impl Iterator<Item = Rc<Poller>> {
        (0..).map_while(|index| self.pollers.borrow().get(index).map(Rc::clone))
    }

    fn run_pollers(&self, now: u64) -> bool {
        let mut busy = false;
        for poller in self.pollers() {
            self.shared.doing().begin(poller.function(), poller.id);
            busy |= poller.round(now);
        }
        if self.some_gone.take() {
            self.pollers.borrow_mut().retain(|poller| poller.state.get() != State::Gone);
        }
        busy
    }

    pub(in crate::reactor) fn has_messages(&self) -> bool {
        !self.shared.queue.is_empty()
    }

    /// Asks every poller to prepare for sleep. Returns whether one of them has work or cannot
    /// sleep. The pollers' `woke` runs at the start of the next round.
    pub(in crate::reactor) fn prepare_sleep(&self) -> bool {
        CURRENT.set(self);
        self.is_asleep.set(true);
        let prepare = |poller: Rc<Poller>| {
            self.shared.doing().begin(poller.function(), poller.id);
            poller.prepare_sleep()
        };
        let work = self.bdevs.has_work() || self.pollers().any(prepare);
        self.shared.doing().end();
        CURRENT.set(ptr::null());
        work
    }

    pub(in crate::reactor) fn next_deadline(&self) -> Option<u64> {
        let pollers = self.pollers.borrow();
        let deadline = |poller: &Rc<Poller>| {
            self.shared.doing().begin(poller.function(), poller.id);
            poller.deadline()
        };
        let first = pollers.iter().filter_map(deadline).chain(self.bdevs.deadline()).min();
        self.shared.doing().end();
        first
    }
}
