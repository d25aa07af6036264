//! Lightweight threads: movable, cooperative units with messages, pollers and io_channels.
//!
//! A thread belongs to one reactor at a time and only runs there.
//!
//! | file | what is in it |
//! |---|---|
//! | `table` | the part of a thread that other OS threads use, and the table of all threads |
//! | `life` | how a thread is created, moves to another core, and ends |
//! | `round` | what a thread does in a round, and before its reactor sleeps |
//! | `pollers` | the pollers of a thread |
//! | `send` | messages to threads |
//! | `info` | what `thread_get_stats` reports |
#![expect(unsafe_code, reason = "the pointer to the current thread, messages and pollers are raw")]

mod info;
mod life;
mod pollers;
mod round;
mod send;
mod table;

pub use info::{Info, info};
pub use life::{create, exit_current, set_cpumask};
pub use send::{for_each, send, send_app, send_boxed};
pub use table::{MAX_THREADS, app};

pub(super) use life::{Moving, create_app};
pub(super) use round::MESSAGES_PER_ROUND;
pub(super) use table::{Shared, all_shared};

use crate::bdev::state::ThreadChannels;
use crate::env::CpuSet;
use crate::reactor::poller::Poller;
use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;

/// One lightweight thread. Only its reactor uses it.
pub(crate) struct Thread {
    shared: &'static Shared,
    cpumask: RefCell<CpuSet>,
    pollers: RefCell<Vec<Rc<Poller>>>,
    next_poller: Cell<u64>,
    some_gone: Cell<bool>,
    exiting: Cell<bool>,
    move_to: Cell<Option<usize>>,
    busy_ns: Cell<u64>,
    idle_ns: Cell<u64>,
    /// Whether the last round found work.
    was_busy: Cell<bool>,
    last_ns: Cell<u64>,
    /// Whether its pollers are prepared for sleep.
    is_asleep: Cell<bool>,
    /// The io_channels of bdevs.
    pub(crate) bdevs: ThreadChannels,
}

thread_local! {
    static CURRENT: Cell<*const Thread> = const { Cell::new(ptr::null()) };
}

/// The id of the current thread; 0 outside of a lightweight thread.
#[must_use]
pub fn current_id() -> u64 {
    with_current(|thread| thread.shared.id).unwrap_or(0)
}

/// Runs `f` with the current thread; `None` outside of a lightweight thread.
pub(crate) fn with_current<T>(f: impl FnOnce(&Thread) -> T) -> Option<T> {
    let thread = CURRENT.get();
    // SAFETY: `Thread::round` and `Thread::prepare_sleep` set it while they borrow the thread.
    unsafe { thread.as_ref() }.map(f)
}

/// The address of the current thread, only for comparisons; 0 outside of a thread. A new thread may
/// get the address of one that has ended.
#[inline]
pub(crate) fn here() -> usize {
    CURRENT.get().addr()
}

impl Thread {
    pub(super) fn id(&self) -> u64 {
        self.shared.id
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thread").field("id", &self.shared.id).finish_non_exhaustive()
    }
}
