//! How a thread is created, moves to another core, and ends.

use super::table::{NOWHERE, find, publish, remove, set_app};
use super::{Thread, send_boxed, with_current};
use crate::bdev::state::ThreadChannels;
use crate::env::CpuSet;
use crate::reactor::{Reactor, all, by_core, clock, current, pins};
use crate::{Error, Result};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Creates the app thread on the first core.
pub(in crate::reactor) fn create_app(cores: &CpuSet) -> Result<()> {
    let app = create("app_thread", &CpuSet::one(cores.first()))?;
    set_app(app);
    Ok(())
}

/// Creates a thread on the least loaded reactor that `cpumask` allows. Any OS thread.
///
/// # Errors
/// `EINVAL` when no reactor runs on any of these cores; `EAGAIN` when there are too many threads.
pub fn create(name: &str, cpumask: &CpuSet) -> Result<u64> {
    let reactor = all()
        .iter()
        .filter(|reactor| cpumask.contains(reactor.core))
        .min_by_key(|reactor| reactor.threads.load(Ordering::Relaxed))
        .ok_or_else(|| {
            Error::new(libc::EINVAL, format!("thread {name}: no reactor runs in mask {cpumask:?}"))
        })?;
    let shared = publish(name, reactor.core)?;
    reactor.threads.fetch_add(1, Ordering::Relaxed);
    let thread = Rc::new(Thread {
        shared,
        cpumask: RefCell::new(cpumask.clone()),
        pollers: RefCell::new(Vec::new()),
        next_poller: Cell::new(1),
        some_gone: Cell::new(false),
        exiting: Cell::new(false),
        move_to: Cell::new(None),
        busy_ns: Cell::new(0),
        idle_ns: Cell::new(0),
        was_busy: Cell::new(false),
        last_ns: Cell::new(clock::precise_now()),
        is_asleep: Cell::new(false),
        bdevs: ThreadChannels::default(),
    });
    reactor.adopt(Moving(thread))?;
    Ok(shared.id)
}

/// Sets the cores of a thread. If the thread runs on another core, it moves to one of these cores.
/// Any thread.
///
/// # Errors
/// `ESRCH` for an unknown thread; `EINVAL` when no reactor runs on any of these cores; `EBUSY` when
/// the thread would have to move and a plugin forbids that ([`pins`]).
pub fn set_cpumask(thread: u64, cpumask: CpuSet) -> Result<()> {
    let shared = find(thread)?;
    if !all().iter().any(|reactor| cpumask.contains(reactor.core)) {
        return Err(Error::new(libc::EINVAL, format!("no reactor runs in mask {cpumask:?}")));
    }
    if !cpumask.contains(shared.core()) {
        pins::check(&shared.name)?;
    }
    send_boxed(thread, move || {
        with_current(|thread| {
            let here = thread.shared.core.load(Ordering::Relaxed);
            let target = all().iter().find(|reactor| cpumask.contains(reactor.core));
            // This also cancels the move of an earlier call in this round.
            let target = target.filter(|_| !cpumask.contains(here));
            thread.move_to.set(target.map(|reactor| reactor.core));
            thread.cpumask.replace(cpumask);
        });
    });
    Ok(())
}

/// Ends the current thread at the end of a round, as soon as it has no pollers, channels or
/// messages.
pub fn exit_current() {
    with_current(|thread| thread.exiting.set(true));
}

/// A thread on its way to a reactor.
pub(crate) struct Moving(Rc<Thread>);

// SAFETY: it carries the only reference to the thread, and nobody runs the thread in the meantime.
unsafe impl Send for Moving {}

impl Moving {
    /// The thread arrives at `reactor`.
    pub(in crate::reactor) fn settle(self, reactor: &Arc<Reactor>) -> Rc<Thread> {
        self.0.shared.core.store(reactor.core, Ordering::Release);
        for poller in self.0.pollers.borrow().iter() {
            for &(fd, events) in poller.wake_fds.borrow().iter() {
                if let Err(error) = reactor.sleeper.watch(fd, events, self.0.shared.id) {
                    tracing::error!(
                        poller = poller.name,
                        "cannot watch a wake-up descriptor after a move: {error}"
                    );
                }
            }
        }
        self.0
    }
}

impl Thread {
    pub(in crate::reactor) fn is_leaving(&self) -> bool {
        self.moves()
            || (self.exiting.get()
                && self.pollers.borrow().is_empty()
                && self.bdevs.is_empty()
                && !self.has_messages())
    }

    /// Whether the thread must move now. A plugin that was loaded after `set_cpumask` may forbid it.
    /// A pin begins before the plugin's first call, so a plugin without a pin has no state here.
    fn moves(&self) -> bool {
        if self.move_to.get().is_none() {
            return false;
        }
        let may_move = pins::check(&self.shared.name);
        if let Err(error) = &may_move {
            self.move_to.set(None);
            tracing::warn!("{error}");
        }
        may_move.is_ok()
    }

    /// Moves the thread to its new core, or ends it.
    pub(in crate::reactor) fn depart(self: Rc<Self>) {
        self.unwatch_all();
        self.shared.core.store(NOWHERE, Ordering::Relaxed);
        let Some(target) = self.move_to.take() else {
            let shared = self.shared;
            self.end();
            return shared.pass_on_late();
        };
        if let Some(reactor) = by_core(target)
            && let Err(error) = reactor.adopt(Moving(self))
        {
            tracing::error!("lost a thread that moved to core {target}: {error}");
        }
    }

    fn unwatch_all(&self) {
        let Some(reactor) = current() else { return };
        for poller in self.pollers.borrow().iter() {
            for &(fd, _) in poller.wake_fds.borrow().iter() {
                // The descriptor may already be closed, which removed it.
                let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            }
        }
    }

    /// Removes the thread from the table. Its remaining pollers and channels are not freed.
    pub(in crate::reactor) fn end(self: Rc<Self>) {
        remove(self.shared);
    }
}
