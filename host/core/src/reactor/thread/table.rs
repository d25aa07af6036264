//! What other OS threads use of a thread: its id, its message queue and its core.
//!
//! The host never frees this part, so a late sender finds an ended thread instead of freed memory.

use crate::reactor::doing::Doing;
use crate::reactor::line::Line;
use crate::reactor::message::Queue;
use crate::{Error, Result};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The maximum number of threads at a time.
pub const MAX_THREADS: usize = 4096;

/// The part of a thread that other OS threads use.
pub(crate) struct Shared {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) queue: Queue,
    /// The core of the thread's reactor. A new thread has the core of the reactor that it will run
    /// on. [`NOWHERE`] while it moves, and after its end.
    pub(super) core: AtomicUsize,
    /// What the thread calls now, for the watchdog.
    doing: Line<Doing>,
}

/// No core: the thread is moving to another reactor, or it has ended.
pub(super) const NOWHERE: usize = usize::MAX;

static SLOTS: [AtomicPtr<Shared>; MAX_THREADS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_THREADS];
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static APP: AtomicU64 = AtomicU64::new(0);
static IDS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The id of the thread that runs the control plane; 0 before the reactors start.
#[must_use]
pub fn app() -> u64 {
    APP.load(Ordering::Acquire)
}

/// Makes a thread the app thread.
pub(super) fn set_app(id: u64) {
    APP.store(id, Ordering::Release);
}

/// The ids of all threads.
pub(super) fn ids() -> Vec<u64> {
    lock_ids().clone()
}

/// # Errors
/// `ESRCH` when there is no such thread.
pub(super) fn find(id: u64) -> Result<&'static Shared> {
    shared(id).ok_or_else(|| Error::new(libc::ESRCH, format!("there is no thread {id}")))
}

/// As [`find`], for callers that need no error.
pub(super) fn shared(id: u64) -> Option<&'static Shared> {
    let shared = slot(id)?.load(Ordering::Acquire);
    // SAFETY: `Shared`s are leaked, so every pointer that was published stays valid.
    let shared = unsafe { shared.as_ref() }?;
    (shared.id == id).then_some(shared)
}

/// The part of all threads that other OS threads use.
pub(in crate::reactor) fn all_shared() -> Vec<&'static Shared> {
    ids().into_iter().filter_map(shared).collect()
}

/// Adds a thread to the table. Any OS thread.
///
/// # Errors
/// `EAGAIN` when there are too many threads.
pub(super) fn publish(name: &str, core: usize) -> Result<&'static Shared> {
    let mut ids = lock_ids();
    for _ in 0..MAX_THREADS {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = slot(id) else { continue };
        if slot.load(Ordering::Acquire).is_null() {
            let shared = Box::leak(Box::new(Shared {
                id,
                name: name.to_owned(),
                queue: Queue::new(),
                core: AtomicUsize::new(core),
                doing: Line(Doing::default()),
            }));
            slot.store(shared, Ordering::Release);
            ids.push(id);
            return Ok(shared);
        }
    }
    Err(Error::new(
        libc::EAGAIN,
        format!("there are already {MAX_THREADS} threads, which is the limit"),
    ))
}

/// Removes a thread from the table and ends its queue.
pub(super) fn remove(shared: &Shared) {
    lock_ids().retain(|&other| other != shared.id);
    if let Some(slot) = slot(shared.id) {
        slot.store(ptr::null_mut(), Ordering::Release);
    }
    shared.queue.end();
}

fn lock_ids() -> MutexGuard<'static, Vec<u64>> {
    IDS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot(id: u64) -> Option<&'static AtomicPtr<Shared>> {
    SLOTS.get(usize::try_from(id % MAX_THREADS as u64).ok()?)
}

impl Shared {
    pub(in crate::reactor) fn id(&self) -> u64 {
        self.id
    }

    pub(in crate::reactor) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::reactor) fn core(&self) -> usize {
        self.core.load(Ordering::Relaxed)
    }

    pub(in crate::reactor) fn doing(&self) -> &Doing {
        let Line(doing) = &self.doing;
        doing
    }
}
