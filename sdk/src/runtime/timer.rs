//! One-shot timers of one lightweight thread.

use super::executor::Executor;
use crate::poller::{Poll as Round, Poller};
use crate::thread;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// The waiting timers, and the poller that checks them. The poller is paused while there are none.
#[derive(Default)]
pub(super) struct Timers {
    /// Ordered by deadline in nanoseconds, then by the order of the calls.
    waiting: BTreeMap<(u64, u64), Waker>,
    last: u64,
    poller: Option<Poller>,
}

struct Due(Weak<Executor>);

impl Round for Due {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.0.upgrade().is_some_and(|executor| fire(&executor))
    }

    fn next_ns(&mut self) -> u64 {
        let next = self.0.upgrade().and_then(|executor| {
            executor.timers.borrow().waiting.first_key_value().map(|((deadline, _), _)| *deadline)
        });
        next.unwrap_or(u64::MAX)
    }
}

/// Wakes the timers that are due. Returns whether there were any.
fn fire(executor: &Executor) -> bool {
    let now = thread::now_ns();
    let mut timers = executor.timers.borrow_mut();
    let later = timers.waiting.split_off(&(now.saturating_add(1), 0));
    let due = std::mem::replace(&mut timers.waiting, later);
    if timers.waiting.is_empty()
        && let Some(poller) = &timers.poller
    {
        poller.pause();
    }
    drop(timers);
    let is_busy = !due.is_empty();
    due.into_values().for_each(Waker::wake);
    is_busy
}

/// Waits until a time on the host's clock.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    deadline_ns: u64,
    place: Option<(Rc<Executor>, (u64, u64))>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("deadline_ns", &self.deadline_ns).finish_non_exhaustive()
    }
}

impl Sleep {
    pub(super) fn until(deadline_ns: u64) -> Self {
        Self { deadline_ns, place: None }
    }

    fn leave(&mut self) {
        if let Some((executor, place)) = self.place.take() {
            executor.timers.borrow_mut().waiting.remove(&place);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.leave();
        if thread::now_ns() >= self.deadline_ns {
            return Poll::Ready(());
        }
        match Executor::here().and_then(|executor| {
            add(&executor, self.deadline_ns, context.waker()).map(|place| (executor, place))
        }) {
            Ok(place) => {
                self.place = Some(place);
                Poll::Pending
            }
            Err(error) => {
                tracing::error!("cannot start a timer, so its wait ends at once: {error}");
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.leave();
    }
}

fn add(executor: &Rc<Executor>, deadline_ns: u64, waker: &Waker) -> crate::Result<(u64, u64)> {
    let mut timers = executor.timers.borrow_mut();
    if timers.waiting.is_empty() {
        match &timers.poller {
            Some(poller) => poller.resume(),
            None => {
                let due = Due(Rc::downgrade(executor));
                timers.poller = Some(Poller::register("timers", 0, due)?);
            }
        }
    }
    timers.last += 1;
    let place = (deadline_ns, timers.last);
    timers.waiting.insert(place, waker.clone());
    Ok(place)
}
