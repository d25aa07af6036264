//! Control operations that take more than one step, as futures on the app thread.
//!
//! What they wait for is state of the app thread, and all of it changes there. So whoever changes something lets the tasks look
//! again; there are few of them, and no wakers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Operations that may be under way at once.
const TASKS_MAX: usize = 256;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The operations under way, in the order they were begun.
#[derive(Default)]
pub struct Tasks {
    list: RefCell<VecDeque<Task>>,
    is_running: Cell<bool>,
    again: Cell<bool>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("running", &self.is_running).finish_non_exhaustive()
    }
}

impl Tasks {
    /// Whether one more would be too many.
    pub fn is_full(&self) -> bool {
        self.list.borrow().len() >= TASKS_MAX
    }

    /// Begins an operation.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.list.borrow_mut().push_back(Box::pin(task));
        self.run();
    }

    /// Something changed: lets every operation go on as far as it can.
    pub fn run(&self) {
        self.again.set(true);
        if self.is_running.replace(true) {
            return;
        }
        while self.again.replace(false) {
            let count = self.list.borrow().len();
            for _ in 0..count {
                let Some(mut task) = self.next() else { break };
                match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => self.list.borrow_mut().push_back(task),
                    // What it held may be free now.
                    Poll::Ready(()) => self.again.set(true),
                }
            }
        }
        self.is_running.set(false);
    }

    fn next(&self) -> Option<Task> {
        self.list.borrow_mut().pop_front()
    }
}

/// Waits until `condition` holds.
pub async fn until(condition: impl Fn() -> bool) {
    poll_fn(|_| if condition() { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_task_goes_on_when_what_it_waits_for_has_changed() {
        let (tasks, step) = (Tasks::default(), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&step);
        tasks.spawn(async move {
            until(|| seen.get() == 1).await;
            seen.set(2);
        });
        tasks.run();
        assert_eq!(step.get(), 0);
        step.set(1);
        tasks.run();
        assert_eq!(step.get(), 2);
        assert!(tasks.list.borrow().is_empty());
    }

    #[test]
    fn tasks_that_wait_for_each_other_go_on_in_one_run() {
        let (tasks, step) = (Rc::new(Tasks::default()), Rc::new(Cell::new(0)));
        let (first, second) = (Rc::clone(&step), Rc::clone(&step));
        tasks.spawn(async move {
            until(|| first.get() == 1).await;
        });
        let inner = Rc::clone(&tasks);
        tasks.spawn(async move {
            second.set(1);
            inner.run();
        });
        assert!(tasks.list.borrow().is_empty());
    }
}
