//! Tasks on a fake host. The test controls the clock and the rounds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "for tests")]

use super::super::executor::TASKS_MAX;
use super::super::lock::{Lock, Locks};
use super::super::notify::Notify;
use super::*;
use crate::testing::FakeHost;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MS: Duration = Duration::from_millis(1);

/// Runs a task until it has ended.
fn run<T: 'static>(host: &FakeHost, future: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let to = Rc::clone(&result);
    let task = spawn("test", async move {
        let output = future.await;
        *to.borrow_mut() = Some(output);
    });
    task.unwrap().detach();
    host.wait(|| result.take())
}

/// A future that counts how often it is polled.
fn counted(polls: &Rc<Cell<usize>>) -> impl Future<Output = ()> + use<> {
    let polls = Rc::clone(polls);
    poll_fn(move |_| {
        polls.set(polls.get() + 1);
        Poll::Pending
    })
}

/// Sets its flag when it is dropped.
struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn a_task_that_nobody_wakes_is_not_polled_again() {
    let (host, polls) = (FakeHost::new(), Rc::new(Cell::new(0)));
    spawn("waits", counted(&polls)).unwrap().detach();
    for _ in 0..3 {
        run(&host, async {});
    }
    assert_eq!(polls.get(), 1);
}

#[test]
fn another_thread_of_the_system_wakes_a_task_with_a_value() {
    let host = FakeHost::new();
    let (sender, receiver) = oneshot::channel();
    let other = std::thread::spawn(move || sender.send(7).unwrap());
    assert_eq!(run(&host, receiver), Ok(7));
    other.join().unwrap();
}

#[test]
fn a_handle_gives_the_result_and_a_canceled_task_is_dropped() {
    let host = FakeHost::new();
    assert_eq!(run(&host, spawn("five", async { 5 }).unwrap()), Ok(5));
    let is_dropped = Rc::new(Cell::new(false));
    let flag = Flag(Rc::clone(&is_dropped));
    let mut stuck = spawn("stuck", async move {
        let _flag = flag;
        std::future::pending::<()>().await;
    })
    .unwrap();
    run(&host, async {});
    stuck.cancel();
    let error = run(&host, stuck).unwrap_err();
    assert_eq!((error.errno(), error.message()), (errno::ECANCELED, "stuck: canceled"));
    assert!(is_dropped.get());
}

#[test]
fn a_task_runs_on_the_thread_it_was_spawned_on() {
    let host = FakeHost::new();
    let other = thread::create("other", "").unwrap();
    let task = spawn_on(other, "there", async || {
        let before = thread::current();
        sleep(MS).await;
        (before, thread::current())
    });
    let task = spawn("waits", task.unwrap()).unwrap();
    host.run();
    host.advance(MS);
    assert_eq!(run(&host, task).unwrap(), Ok((Some(other), Some(other))));
    assert!(thread::app().is_current());
}

#[test]
fn a_task_on_another_thread_is_canceled_there() {
    let host = FakeHost::new();
    let other = thread::create("other", "").unwrap();
    let mut task = spawn_on(other, "there", async || std::future::pending::<()>().await).unwrap();
    run(&host, async {});
    task.cancel();
    assert_eq!(run(&host, task).unwrap_err().errno(), errno::ECANCELED);
}

#[test]
fn too_many_tasks_are_refused_until_one_has_ended() {
    let host = FakeHost::new();
    let mut tasks: Vec<_> = (0..TASKS_MAX)
        .map(|_| spawn("one of many", std::future::pending::<()>()).unwrap())
        .collect();
    assert_eq!(spawn("one more", async {}).unwrap_err().errno(), errno::EAGAIN);
    assert_eq!(list().len(), TASKS_MAX);
    tasks[0].cancel();
    host.run();
    assert!(spawn("one more", async {}).is_ok());
}

#[test]
fn timers_end_in_the_order_of_their_deadlines() {
    let (host, order) = (FakeHost::new(), Rc::new(RefCell::new(Vec::new())));
    for ms in [30, 10, 20] {
        let order = Rc::clone(&order);
        let task = spawn("timer", async move {
            sleep(MS * ms).await;
            order.borrow_mut().push(ms);
        });
        task.unwrap().detach();
    }
    host.run();
    for _ in 0..4 {
        host.advance(MS * 10);
        host.run();
    }
    assert_eq!(*order.borrow(), [10, 20, 30]);
}

#[test]
fn a_timeout_drops_what_takes_too_long() {
    let (host, is_dropped) = (FakeHost::new(), Rc::new(Cell::new(false)));
    let flag = Flag(Rc::clone(&is_dropped));
    let stuck = async move {
        let _flag = flag;
        std::future::pending::<()>().await;
    };
    let limited = spawn("limited", timeout(MS, stuck)).unwrap();
    host.run();
    assert!(!is_dropped.get());
    host.advance(MS);
    let elapsed = run(&host, limited).unwrap().unwrap_err();
    assert!(is_dropped.get());
    assert_eq!(Error::from(elapsed).errno(), errno::ETIMEDOUT);
    assert_eq!(run(&host, timeout(MS, async { 3 })), Ok(3));
}

#[test]
fn join_waits_for_all_and_select_for_the_first() {
    let host = FakeHost::new();
    let first = async {
        yield_now().await;
        1
    };
    assert_eq!(run(&host, join(first, async { "two" })), (1, "two"));
    assert_eq!(run(&host, select(std::future::pending::<()>(), async { 2 })), Either::Right(2));
    let all = run(&host, async {
        join_all([3_u32, 1, 2].map(|turns| async move {
            for _ in 0..turns {
                yield_now().await;
            }
            turns
        }))
        .await
    });
    assert_eq!(all, [3, 1, 2]);
}

#[test]
fn operations_on_one_object_run_in_the_order_they_came_and_the_busy_one_is_named() {
    let (host, order, lock) = (FakeHost::new(), Rc::new(RefCell::new(Vec::new())), Lock::new());
    for operation in ["create", "resize", "delete"] {
        let (order, lock) = (Rc::clone(&order), lock.clone());
        let task = spawn(operation, async move {
            let _guard = lock.lock(operation).await;
            sleep(MS).await;
            order.borrow_mut().push(operation);
        });
        task.unwrap().detach();
    }
    host.run();
    let error = lock.try_lock("lvs0", "rename").unwrap_err();
    assert_eq!(
        (error.errno(), error.message()),
        (errno::EBUSY, "lvs0 is busy: create is under way")
    );
    for _ in 0..8 {
        host.advance(MS);
    }
    assert_eq!(*order.borrow(), ["create", "resize", "delete"]);
    assert!(lock.holder().is_none() && lock.try_lock("lvs0", "rename").is_ok());
}

#[test]
fn an_operation_that_gives_up_waiting_does_not_hold_up_the_next() {
    let (host, locks) = (FakeHost::new(), Rc::new(Locks::new()));
    let guard = locks.try_lock("raid0", "create").unwrap();
    let mut gives_up = spawn("second", locks.lock("raid0", "second")).unwrap();
    let third = spawn("third", locks.lock("raid0", "third")).unwrap();
    host.run();
    gives_up.cancel();
    host.run();
    assert_eq!(locks.list(), [("raid0".to_owned(), "create".to_owned())]);
    drop(guard);
    let guard = run(&host, third).unwrap();
    assert_eq!(locks.list(), [("raid0".to_owned(), "third".to_owned())]);
    drop(guard);
    assert!(locks.list().is_empty());
}

#[test]
fn what_waits_for_a_change_checks_again_when_notified() {
    let (host, changed, value) = (FakeHost::new(), Rc::new(Notify::new()), Rc::new(Cell::new(0)));
    let (of_task, seen) = (Rc::clone(&changed), Rc::clone(&value));
    let task = spawn("waits", async move { of_task.until(|| seen.get() == 2).await }).unwrap();
    host.run();
    for now in [1, 2] {
        value.set(now);
        changed.notify();
        host.run();
    }
    assert_eq!(run(&host, timeout(MS, task)), Ok(Ok(())));
}

#[test]
fn a_stop_drops_tasks_on_every_thread_before_it_ends() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    let host = FakeHost::new();
    let other = thread::create("other", "").unwrap();
    for thread in [thread::app(), other] {
        let task = spawn_on(thread, "stuck", async || {
            let _counted = Counted;
            sleep(MS).await;
        });
        task.unwrap().detach();
    }
    host.run();
    let seen = Rc::new(Cell::new(None));
    let to = Rc::clone(&seen);
    end_all(true, move || to.set(Some(DROPPED.load(Ordering::Relaxed))));
    assert_eq!(host.wait(|| seen.get()), 2);
    assert!(list().is_empty());
}

#[test]
fn the_end_of_a_thread_ends_its_tasks() {
    let host = FakeHost::new();
    let other = thread::create("other", "").unwrap();
    let stuck = spawn_on(other, "stuck", async || std::future::pending::<()>().await).unwrap();
    host.run();
    other.send(move || other.exit().unwrap()).unwrap();
    assert_eq!(run(&host, stuck).unwrap_err().errno(), errno::ECANCELED);
    assert!(spawn_on(other, "late", async || ()).is_err());
}
