//! A lock for futures of one thread. A future that writes metadata must hold it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

#[derive(Debug, Default)]
pub(crate) struct Lock {
    is_held: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    pub(crate) async fn lock(&self) -> Held<'_> {
        poll_fn(|context| {
            if self.is_held.replace(true) {
                self.waiting.borrow_mut().push_back(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Held(self))
        })
        .await
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.is_held.set(false);
        // Wake all of them, because the first waiter may have been dropped meanwhile.
        for waker in self.0.waiting.take() {
            waker.wake();
        }
    }
}
