//! Operation locks: an object has one operation at a time, in the order of the requests.

use crate::error::{Error, Result, errno};
use std::borrow::Cow;
use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Allows one operation on an object at a time. It stays on its thread. Clones are the same lock.
#[derive(Clone, Debug, Default)]
pub struct Lock(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    holder: Option<Cow<'static, str>>,
    last: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl Lock {
    /// A free lock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the lock. While it is held, [`holder`](Self::holder) returns `operation`, such as "resize".
    pub fn lock(&self, operation: impl Into<Cow<'static, str>>) -> Locking {
        Locking { lock: self.clone(), operation: Some(operation.into()), place: None }
    }

    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// `EBUSY`, naming `object` and the operation under way.
    pub fn try_lock(&self, object: &str, operation: impl Into<Cow<'static, str>>) -> Result<Guard> {
        let mut state = self.0.borrow_mut();
        if let Some(holder) = &state.holder {
            return Err(Error::new(
                errno::EBUSY,
                format!("{object} is busy: {holder} is under way"),
            ));
        }
        if !state.waiting.is_empty() {
            return Err(Error::new(errno::EBUSY, format!("{object} is busy: others wait for it")));
        }
        state.holder = Some(operation.into());
        Ok(Guard(self.clone()))
    }

    /// The operation under way.
    #[must_use]
    pub fn holder(&self) -> Option<Ref<'_, str>> {
        Ref::filter_map(self.0.borrow(), |state| state.holder.as_deref()).ok()
    }

    fn is_free(&self) -> bool {
        let state = self.0.borrow();
        state.holder.is_none() && state.waiting.is_empty()
    }

    /// If the lock is free, wakes the first waiter.
    fn pass_on(&self) {
        let state = self.0.borrow();
        let next = state.waiting.front().filter(|_| state.holder.is_none());
        let waker = next.map(|(_, waker)| waker.clone());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Holds a lock until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it lets the next operation begin"]
pub struct Guard(Lock);

impl Drop for Guard {
    fn drop(&mut self) {
        let holder = self.0.0.borrow_mut().holder.take();
        drop(holder);
        self.0.pass_on();
    }
}

/// Waits for a lock. Dropping it leaves the queue.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Locking {
    lock: Lock,
    operation: Option<Cow<'static, str>>,
    place: Option<u64>,
}

impl Future for Locking {
    type Output = Guard;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Guard> {
        let this = &mut *self;
        let mut state = this.lock.0.borrow_mut();
        let is_first = match (this.place, state.waiting.front()) {
            (Some(place), Some((first, _))) => place == *first,
            (_, front) => front.is_none(),
        };
        if is_first && state.holder.is_none() {
            state.holder = Some(this.operation.take().unwrap_or_default());
            if this.place.take().is_some() {
                state.waiting.pop_front();
            }
            return Poll::Ready(Guard(this.lock.clone()));
        }
        let waker = context.waker().clone();
        match this.place {
            Some(place) => {
                if let Some(waiting) = state.waiting.iter_mut().find(|(id, _)| *id == place) {
                    waiting.1 = waker;
                }
            }
            None => {
                state.last += 1;
                let place = state.last;
                this.place = Some(place);
                state.waiting.push_back((place, waker));
            }
        }
        Poll::Pending
    }
}

impl Drop for Locking {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.lock.0.borrow_mut().waiting.retain(|(id, _)| *id != place);
            self.lock.pass_on();
        }
    }
}

/// Locks by name, for objects that may not exist yet: a bdev to create, a subsystem to delete. They stay on their thread.
#[derive(Debug, Default)]
pub struct Locks(RefCell<BTreeMap<String, Lock>>);

impl Locks {
    /// Creates a set without locks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the object's lock.
    pub fn lock(&self, object: &str, operation: impl Into<Cow<'static, str>>) -> Locking {
        self.of(object).lock(operation)
    }

    /// Takes the object's lock without waiting.
    ///
    /// # Errors
    /// `EBUSY`, naming the object and the operation under way.
    pub fn try_lock(&self, object: &str, operation: impl Into<Cow<'static, str>>) -> Result<Guard> {
        self.of(object).try_lock(object, operation)
    }

    /// Returns each locked object and its operation.
    #[must_use]
    pub fn list(&self) -> Vec<(String, String)> {
        let locks = self.0.borrow();
        let held = locks.iter().filter_map(|(object, lock)| {
            lock.holder().map(|holder| (object.clone(), holder.to_owned()))
        });
        held.collect()
    }

    fn of(&self, object: &str) -> Lock {
        let mut locks = self.0.borrow_mut();
        // Drop locks that no one holds or waits for. The count also covers futures that were never polled.
        locks.retain(|_, lock| !lock.is_free() || Rc::strong_count(&lock.0) > 1);
        locks.entry(object.to_owned()).or_default().clone()
    }
}
