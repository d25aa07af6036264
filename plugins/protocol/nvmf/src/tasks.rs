//! Control operations of several steps, as futures on the app thread.
//!
//! They wait for state of the app thread, which only the app thread changes. So the code that changes something calls [`Tasks::run`],
//! which polls every operation again. There are few operations, and no wakers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Maximum number of operations in progress at the same time.
const TASKS_MAX: usize = 256;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The operations in progress, in the order in which they started.
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
    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.list.borrow().len() >= TASKS_MAX
    }

    /// Whether half of the limit is reached. Commands of hosts get no more, so that hosts cannot keep operators out.
    pub fn is_half_full(&self) -> bool {
        self.list.borrow().len() >= TASKS_MAX / 2
    }

    /// Starts an operation.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.list.borrow_mut().push_back(Box::pin(task));
        self.run();
    }

    /// Polls every operation, because something changed.
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
                    // Poll again: an operation that has ended may have released a lock that another one waits for.
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

/// Waits until `condition` is true.
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
