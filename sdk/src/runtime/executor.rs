//! The tasks of one lightweight thread.
//!
//! A wake-up puts the task's number into the thread's queue. The first wake-up also sends the thread its message. There is only one
//! message, which is used again and again. It runs the tasks in the queue. Tasks that are woken meanwhile wait for the next message,
//! so that other messages and pollers run in between.

use super::resident::Resident;
use super::timer::Timers;
use crate::error::{Error, Result, errno};
use crate::thread::{self, Message, Thread};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

/// Maximum number of tasks of one lightweight thread.
pub(super) const TASKS_MAX: usize = 1024;

/// All executors of this library, by thread.
static EXECUTORS: Mutex<BTreeMap<u64, Entry>> = Mutex::new(BTreeMap::new());

struct Entry {
    /// The app thread of the executor's host. Tests have several hosts in one process.
    app: Thread,
    executor: Resident<Executor>,
}

fn entries() -> MutexGuard<'static, BTreeMap<u64, Entry>> {
    EXECUTORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime's state of one lightweight thread. Dropped on that thread.
pub(crate) struct Executor {
    next_id: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Ready>,
    pub(super) timers: RefCell<Timers>,
    /// Work of this thread that the host still has, such as I/O in flight.
    held: RefCell<BTreeMap<u64, Held>>,
    /// Called when `held` becomes empty.
    on_idle: RefCell<Vec<Call>>,
}

type Call = Box<dyn FnOnce()>;

/// Work that the host has, and since when, in nanoseconds.
struct Held {
    what: Box<dyn fmt::Display>,
    began_ns: u64,
}

struct Task {
    name: Cow<'static, str>,
    began_ns: u64,
    /// `None` while the task is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    handle: Arc<Handle>,
}

/// A handle of a task, for any thread. The task's wakers refer to it.
pub(super) struct Handle {
    id: u64,
    ready: Arc<Ready>,
    is_queued: AtomicBool,
    is_canceled: AtomicBool,
}

impl Handle {
    /// Drops the task, on its thread.
    pub(super) fn cancel(self: &Arc<Self>) {
        self.is_canceled.store(true, Ordering::Release);
        self.wake_by_ref();
    }
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.id);
        }
    }
}

/// The tasks that are ready to run.
struct Ready {
    thread: Thread,
    queue: Mutex<Queue>,
}

struct Queue {
    ids: VecDeque<u64>,
    /// `None` while the message is in flight.
    message: Option<Message<()>>,
}

impl Ready {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, id: u64) {
        let mut queue = self.queue();
        queue.ids.push_back(id);
        let message = queue.message.take();
        drop(queue);
        if let Some(message) = message {
            message.send(self.thread, run);
        }
    }
}

/// Receives the thread's message: runs the ready tasks.
fn run(message: Message<()>) {
    let Some(executor) = Executor::existing() else { return };
    let mut queue = executor.ready.queue();
    queue.message = Some(message);
    let count = queue.ids.len();
    drop(queue);
    for _ in 0..count {
        let Some(id) = executor.ready.queue().ids.pop_front() else { break };
        executor.poll(id);
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("num_tasks", &self.tasks.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Executor {
    /// The current thread's executor. The first call on a thread creates it.
    pub(crate) fn here() -> Result<Rc<Self>> {
        if let Some(executor) = Self::existing() {
            return Ok(executor);
        }
        let thread = thread::current()
            .ok_or_else(|| Error::new(errno::EPERM, "tasks run on lightweight threads only"))?;
        let queue = Queue { ids: VecDeque::new(), message: Some(Message::new(())) };
        let executor = Resident::here_with(Self {
            next_id: Cell::new(1),
            tasks: RefCell::default(),
            ready: Arc::new(Ready { thread, queue: Mutex::new(queue) }),
            timers: RefCell::default(),
            held: RefCell::default(),
            on_idle: RefCell::default(),
        })?;
        entries().insert(thread.id(), Entry { app: thread::app(), executor });
        Self::existing().ok_or_else(|| Error::new(errno::EPERM, "the thread has ended"))
    }

    fn existing() -> Option<Rc<Self>> {
        let thread = thread::current()?;
        let executor = entries().get(&thread.id()).map(|entry| entry.executor.clone())?;
        executor.here()
    }

    fn new_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Checks that one more task may be added. `EAGAIN` otherwise.
    pub(crate) fn check_room(&self, name: &str) -> Result<()> {
        if self.tasks.borrow().len() < TASKS_MAX {
            return Ok(());
        }
        let message = format!("{name}: {TASKS_MAX} operations are under way; try again later");
        Err(Error::new(errno::EAGAIN, message))
    }

    /// Adds a task. It first runs with the thread's next messages.
    pub(super) fn add(
        &self,
        name: Cow<'static, str>,
        future: impl Future<Output = ()> + 'static,
    ) -> Result<Arc<Handle>> {
        let handle = self.insert(name, future)?;
        handle.wake_by_ref();
        Ok(handle)
    }

    /// Adds a task and runs it to its first wait. Call it from a message only, because there none of the author's code is running.
    pub(super) fn start(
        &self,
        name: Cow<'static, str>,
        future: impl Future<Output = ()> + 'static,
    ) -> Result<()> {
        let handle = self.insert(name, future)?;
        self.poll(handle.id);
        Ok(())
    }

    fn insert(
        &self,
        name: Cow<'static, str>,
        future: impl Future<Output = ()> + 'static,
    ) -> Result<Arc<Handle>> {
        self.check_room(&name)?;
        let id = self.new_id();
        let handle = Arc::new(Handle {
            id,
            ready: Arc::clone(&self.ready),
            is_queued: AtomicBool::new(false),
            is_canceled: AtomicBool::new(false),
        });
        let task = Task {
            name,
            began_ns: thread::now_ns(),
            future: Some(Box::pin(future)),
            handle: Arc::clone(&handle),
        };
        self.tasks.borrow_mut().insert(id, task);
        Ok(handle)
    }

    fn poll(&self, id: u64) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get_mut(&id) else { return };
        let Some(mut future) = task.future.take() else { return };
        let handle = Arc::clone(&task.handle);
        drop(tasks);
        // Clear it before the poll: a wake-up during the poll must queue the task again.
        handle.is_queued.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&handle));
        let has_ended = handle.is_canceled.load(Ordering::Acquire)
            || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        if has_ended {
            tasks.remove(&id);
        } else if let Some(task) = tasks.get_mut(&id) {
            task.future = Some(future);
            return;
        }
        drop(tasks);
        // The drop may run the author's code, which may spawn tasks.
        drop(future);
    }

    /// Returns each task's name and start time, in nanoseconds.
    pub(super) fn tasks(&self) -> Vec<(String, u64)> {
        self.tasks.borrow().values().map(|task| (task.name.to_string(), task.began_ns)).collect()
    }

    /// Returns the work that the host has, and since when, in nanoseconds.
    pub(super) fn held(&self) -> Vec<(String, u64)> {
        self.held.borrow().values().map(|held| (held.what.to_string(), held.began_ns)).collect()
    }

    /// Drops every task. Calls `then` when the host has no work of theirs left.
    fn end_tasks(self: &Rc<Self>, then: impl FnOnce() + 'static) {
        let tasks = self.tasks.take();
        drop(tasks);
        // This also drops the poller. The next timer creates a new one.
        let timers = self.timers.take();
        drop(timers);
        self.on_idle.borrow_mut().push(Box::new(then));
        self.settle();
    }

    fn settle(&self) {
        if self.held.borrow().is_empty() {
            let calls = self.on_idle.take();
            calls.into_iter().for_each(|call| call());
        }
    }
}

/// Work of this thread that the host has. The stop of the plugin waits until it is dropped.
pub(super) struct Hold {
    executor: Rc<Executor>,
    id: u64,
}

impl Hold {
    pub(super) fn new(executor: &Rc<Executor>, what: impl fmt::Display + 'static) -> Self {
        let id = executor.new_id();
        let held = Held { what: Box::new(what), began_ns: thread::now_ns() };
        executor.held.borrow_mut().insert(id, held);
        Self { executor: Rc::clone(executor), id }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = self.executor.held.borrow_mut().remove(&self.id);
        drop(held);
        self.executor.settle();
    }
}

/// Drops every task of this host's threads, waits for their I/O and jobs, then calls `then`. With `is_last`, no task can
/// run afterwards. `[app thread]`
pub(crate) fn end_all(is_last: bool, then: impl FnOnce() + 'static) {
    let app = thread::app();
    let mut all = entries();
    let ours: Vec<_> = all
        .iter()
        .filter(|(_, entry)| entry.app == app)
        .map(|(id, entry)| (*id, entry.executor.clone()))
        .collect();
    if is_last {
        all.retain(|_, entry| entry.app != app);
    }
    drop(all);
    let Ok(then) = Resident::here_with(Cell::new(Some(Box::new(then) as Call))) else {
        return;
    };
    // The last reference to be dropped calls `then`, on the app thread.
    let last = Arc::new(Last(then));
    for (_, executor) in ours {
        let last = Arc::clone(&last);
        executor.send(move |executor| executor.end_tasks(move || drop(last)));
    }
}

struct Last(Resident<Cell<Option<Call>>>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.send(|then| {
            if let Some(then) = then.take() {
                then();
            }
        });
    }
}

/// Ends the tasks of the current thread, which is about to end.
pub(crate) fn end_here() {
    if let Some(thread) = thread::current() {
        let entry = entries().remove(&thread.id());
        if let Some(executor) = entry.and_then(|entry| entry.executor.here()) {
            drop(executor.tasks.take());
        }
    }
}
