//! Wait for a change.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Wakes the tasks that wait for a change. Threads may share it.
#[derive(Default)]
pub struct Notify(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("num_waiting", &self.waiters().wakers.len()).finish()
    }
}

impl Notify {
    /// Creates a value without waiters.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Waiters { last: 0, wakers: BTreeMap::new() }))
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a change: all waiters check their conditions again. `[any thread]`
    pub fn notify(&self) {
        let wakers = std::mem::take(&mut self.waiters().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Waits until `condition` returns true. It is called at once, and after each [`notify`](Self::notify).
    pub async fn until(&self, mut condition: impl FnMut() -> bool) {
        let mut waiting = Waiting { notify: self, id: None };
        poll_fn(|context| {
            // Enter before the check, so that a change by another thread in between is not missed.
            waiting.enter(context.waker());
            if condition() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// An entry in the list of waiters. Dropping it removes the entry.
struct Waiting<'a> {
    notify: &'a Notify,
    id: Option<u64>,
}

impl Waiting<'_> {
    fn enter(&mut self, waker: &Waker) {
        let mut waiters = self.notify.waiters();
        let id = *self.id.get_or_insert_with(|| {
            waiters.last += 1;
            waiters.last
        });
        waiters.wakers.insert(id, waker.clone());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.notify.waiters().wakers.remove(&id);
        }
    }
}
