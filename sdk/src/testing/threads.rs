//! The fake host's lightweight threads. They all run on the OS thread of their [`super::FakeHost`], one after another.
//!
//! Their handles are unique in the process, so tests that run in parallel never mix up each other's threads.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "for tests")]

use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

/// The handle for the next thread.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Messages from other OS threads, by lightweight thread.
static INBOXES: Mutex<BTreeMap<u64, Arc<Inbox>>> = Mutex::new(BTreeMap::new());

/// Messages from other OS threads to the threads of one fake host.
#[derive(Default)]
struct Inbox(Mutex<Vec<(u64, Sent)>>);

struct Sent(*mut api::bay_msg);

// SAFETY: the sender has given the message away; only its receiver dereferences the pointer.
unsafe impl Send for Sent {}

/// The threads of one fake host. The first one is the app thread.
#[derive(Default)]
pub(super) struct Threads {
    alive: Vec<u64>,
    app: u64,
    current: u64,
    inbox: Arc<Inbox>,
    messages: VecDeque<(u64, *mut api::bay_msg)>,
}

impl Threads {
    /// Creates the app thread. Call it once.
    pub(super) fn begin(&mut self) {
        if self.app == 0 {
            self.app = self.create();
            self.current = self.app;
        }
    }

    pub(super) fn current(&self) -> u64 {
        self.current
    }

    pub(super) fn app(&self) -> u64 {
        self.app
    }

    fn create(&mut self) -> u64 {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.alive.push(id);
        inboxes(|inboxes| inboxes.insert(id, Arc::clone(&self.inbox)));
        id
    }

    /// Returns the next message and its thread.
    pub(super) fn next_message(&mut self) -> Option<(u64, *mut api::bay_msg)> {
        let mut came = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.messages.extend(came.drain(..).map(|(thread, Sent(msg))| (thread, msg)));
        drop(came);
        self.messages.pop_front()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        inboxes(|inboxes| inboxes.retain(|id, _| !self.alive.contains(id)));
    }
}

fn inboxes<R>(body: impl FnOnce(&mut BTreeMap<u64, Arc<Inbox>>) -> R) -> R {
    body(&mut INBOXES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Calls the plugin on a lightweight thread.
pub(super) fn on_thread(thread: u64, call: impl FnOnce()) {
    let before = state(|state| std::mem::replace(&mut state.threads.current, thread));
    call();
    state(|state| state.threads.current = before);
}

pub(super) unsafe extern "C" fn current(_: H) -> u64 {
    // When an OS thread ends, its fake host may be dropped already.
    STATE.try_with(|state| state.borrow().threads.current).unwrap_or(0)
}
pub(super) unsafe extern "C" fn app_thread(_: H) -> u64 {
    STATE.try_with(|state| state.borrow().threads.app).unwrap_or(0)
}
pub(super) unsafe extern "C" fn next_core(_: H, after: i32) -> i32 {
    let cores = state(|state| state.cores);
    if after + 1 < cores { after + 1 } else { -1 }
}
pub(super) unsafe extern "C" fn thread_create(
    _: H,
    _: bay_str,
    _: bay_str,
    thread: *mut u64,
) -> i32 {
    let id = state(|state| state.threads.create());
    // SAFETY: the caller's place for the result.
    unsafe { *thread = id };
    0
}
pub(super) unsafe extern "C" fn thread_exit(_: H, thread: u64) -> i32 {
    state(|state| state.threads.alive.retain(|id| *id != thread));
    inboxes(|inboxes| inboxes.remove(&thread));
    0
}
pub(super) unsafe extern "C" fn set_cpumask(_: H, _: u64, _: bay_str) -> i32 {
    0
}
pub(super) unsafe extern "C" fn send(_: H, thread: u64, msg: *mut api::bay_msg) -> i32 {
    let is_here = state(|state| {
        let is_here = state.threads.alive.contains(&thread);
        if is_here {
            state.threads.messages.push_back((thread, msg));
        }
        is_here
    });
    if is_here {
        return 0;
    }
    let Some(inbox) = inboxes(|inboxes| inboxes.get(&thread).cloned()) else { return -ESRCH };
    inbox.0.lock().unwrap_or_else(PoisonError::into_inner).push((thread, Sent(msg)));
    0
}
pub(super) unsafe extern "C" fn now_ns(_: H) -> u64 {
    state(|state| state.now_ns)
}

/// Error for a thread that does not exist.
const ESRCH: i32 = 3;
