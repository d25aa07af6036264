//! Lightweight threads: movable, cooperative units with messages, pollers and io_channels.
//!
//! A thread belongs to one reactor at a time and is only ever run there. What others need of it (its
//! message queue, where it runs) is in `Shared`, which is never freed, so that a late sender finds
//! something that is dead but there.
#![expect(unsafe_code, reason = "messages are intrusive and threads move between OS threads")]

use crate::bdev;
use crate::env::CpuSet;
use crate::reactor::line::Line;
use crate::reactor::message::Queue;
use crate::reactor::poller::{self, Poller, State};
use crate::reactor::watch::{self, Doing};
use crate::reactor::{Reactor, by_core, clock, current};
use crate::{Error, Result};
use drivebay_plugin_api::{bay_msg, bay_poller_ops};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// Most threads at a time.
pub const MAX_THREADS: usize = 4096;
/// Messages that one round takes, so that pollers get their turn.
pub(super) const MESSAGES_PER_ROUND: usize = 64;

/// What other OS threads see of a thread.
pub(crate) struct Shared {
    id: u64,
    name: String,
    queue: Queue,
    /// Core of the reactor that it is on or on its way to for the first time, else [`NOWHERE`].
    core: AtomicUsize,
    /// For the watchdog.
    doing: Line<Doing>,
}

/// No core: the thread moves, or it has ended.
const NOWHERE: usize = usize::MAX;

/// One lightweight thread. Only its reactor touches it.
pub(crate) struct Thread {
    shared: &'static Shared,
    cpumask: RefCell<CpuSet>,
    pollers: RefCell<Vec<Rc<Poller>>>,
    next_poller: Cell<u64>,
    some_gone: Cell<bool>,
    exiting: Cell<bool>,
    move_to: Cell<Option<usize>>,
    busy_ns: Cell<u64>,
    idle_ns: Cell<u64>,
    /// Whether the last round had work.
    was_busy: Cell<bool>,
    last_ns: Cell<u64>,
    /// Its pollers are prepared for sleep.
    is_asleep: Cell<bool>,
    /// The io_channels of bdevs.
    pub(crate) bdevs: bdev::Local,
}

/// A thread on its way to a reactor.
pub(crate) struct Moving(Rc<Thread>);

// SAFETY: the only reference to the thread travels in it; nobody runs it meanwhile.
unsafe impl Send for Moving {}

static SLOTS: [AtomicPtr<Shared>; MAX_THREADS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_THREADS];
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static APP: AtomicU64 = AtomicU64::new(0);
static ALL: Mutex<Vec<u64>> = Mutex::new(Vec::new());

thread_local! {
    static CURRENT: Cell<*const Thread> = const { Cell::new(ptr::null()) };
}

fn slot(id: u64) -> Option<&'static AtomicPtr<Shared>> {
    SLOTS.get(usize::try_from(id % MAX_THREADS as u64).ok()?)
}

fn shared(id: u64) -> Option<&'static Shared> {
    let shared = slot(id)?.load(Ordering::Acquire);
    // SAFETY: `Shared`s are leaked, so a pointer that was ever published stays valid.
    let shared = unsafe { shared.as_ref() }?;
    (shared.id == id).then_some(shared)
}

/// What other OS threads see of all threads.
pub(super) fn all_shared() -> Vec<&'static Shared> {
    let ids = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ids.into_iter().filter_map(shared).collect()
}

/// The current thread's id; 0 outside of one.
#[must_use]
pub fn current_id() -> u64 {
    with_current(|thread| thread.shared.id).unwrap_or(0)
}

/// The thread on which the control plane runs; 0 before the reactors start.
#[must_use]
pub fn app() -> u64 {
    APP.load(Ordering::Acquire)
}

/// Runs `f` with the current thread.
pub(crate) fn with_current<T>(f: impl FnOnce(&Thread) -> T) -> Option<T> {
    let thread = CURRENT.get();
    // SAFETY: set by `Thread::round` (and its kin) for as long as that borrows the thread.
    unsafe { thread.as_ref() }.map(f)
}

/// The current thread, to be compared with: its address, 0 outside of one. An address is used again when its thread has ended.
#[inline]
pub(crate) fn here() -> usize {
    CURRENT.get().addr()
}

pub(super) fn create_app(cores: &CpuSet) -> Result<()> {
    let app = create("app_thread", &CpuSet::one(cores.first()))?;
    APP.store(app, Ordering::Release);
    Ok(())
}

/// Makes a thread on the least loaded reactor that `cpumask` allows. Any OS thread.
///
/// # Errors
/// `EINVAL` when no reactor runs on any of these cores; `EAGAIN` when there are too many threads.
pub fn create(name: &str, cpumask: &CpuSet) -> Result<u64> {
    let reactor = super::all()
        .iter()
        .filter(|reactor| cpumask.contains(reactor.core))
        .min_by_key(|reactor| reactor.threads.load(Ordering::Relaxed))
        .ok_or_else(|| {
            Error::new(libc::EINVAL, format!("thread {name}: no reactor runs in mask {cpumask:?}"))
        })?;
    reactor.threads.fetch_add(1, Ordering::Relaxed);
    let shared = publish(name, reactor.core)?;
    let thread = Rc::new(Thread {
        shared,
        cpumask: RefCell::new(cpumask.clone()),
        pollers: RefCell::new(Vec::new()),
        next_poller: Cell::new(1),
        some_gone: Cell::new(false),
        exiting: Cell::new(false),
        move_to: Cell::new(None),
        busy_ns: Cell::new(0),
        idle_ns: Cell::new(0),
        was_busy: Cell::new(false),
        last_ns: Cell::new(clock::precise_now()),
        is_asleep: Cell::new(false),
        bdevs: bdev::Local::default(),
    });
    reactor.adopt(Moving(thread))?;
    Ok(shared.id)
}

fn publish(name: &str, core: usize) -> Result<&'static Shared> {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
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
            all.push(id);
            return Ok(shared);
        }
    }
    Err(Error::new(libc::EAGAIN, format!("there are {MAX_THREADS} threads already")))
}

/// Sends an intrusive message. Any OS thread. What meets the end of the thread is called on the app
/// thread.
///
/// # Errors
/// `ESRCH` when there is no such thread; the message is the caller's still.
///
/// # Safety
/// `msg` is valid, has its `call`, and stays untouched until it is called.
pub unsafe fn send(thread: u64, msg: *mut bay_msg) -> Result<()> {
    let shared = shared(thread)
        .ok_or_else(|| Error::new(libc::ESRCH, format!("there is no thread {thread}")))?;
    if shared.is_here() {
        // Its reactor is awake: it runs the sender.
        // SAFETY: by this function's contract; this is the OS thread of the receiver.
        unsafe { shared.queue.push_here(msg) };
        return Ok(());
    }
    // SAFETY: by this function's contract.
    unsafe { shared.queue.push(msg) };
    // The other sides have theirs: a sleeper between its announcement and its look at the queue, a
    // thread that moves between its new core and the same, one that ends between `Queue::end` and the same.
    fence(Ordering::SeqCst);
    if let Some(reactor) = by_core(shared.core.load(Ordering::Acquire)) {
        reactor.wake_fenced();
    }
    if shared.queue.has_ended() {
        shared.pass_on_late();
    }
    Ok(())
}

#[repr(C)]
struct Boxed<F> {
    msg: bay_msg,
    call: F,
}

unsafe extern "C" fn call_boxed<F: FnOnce()>(arg: *mut c_void) {
    // SAFETY: `send_boxed` made this box and nobody else has it.
    let boxed = unsafe { Box::from_raw(arg.cast::<Boxed<F>>()) };
    (boxed.call)();
}

/// Runs a closure on a thread: the control path's way to send. Dropped when the thread is gone.
pub fn send_boxed<F: FnOnce() + Send + 'static>(thread: u64, call: F) {
    let msg = bay_msg {
        call: Some(call_boxed::<F>),
        arg: ptr::null_mut(),
        link: ptr::null_mut(),
        rsv: 0,
    };
    let boxed = Box::into_raw(Box::new(Boxed { msg, call }));
    // SAFETY: the box is ours and valid.
    unsafe { (*boxed).msg.arg = boxed.cast() };
    // SAFETY: the message is the first field of a box that lives until it is called.
    if unsafe { send(thread, boxed.cast()) }.is_err() {
        // SAFETY: the message was not sent, so the box is still ours.
        drop(unsafe { Box::from_raw(boxed) });
    }
}

/// Runs a closure on the app thread.
pub fn send_app<F: FnOnce() + Send + 'static>(call: F) {
    send_boxed(app(), call);
}

/// Runs `visit` on every thread, one after the other, then `done` with the results on the thread of
/// the call (the app thread when it was called outside of one).
pub fn for_each<T: Send + 'static>(
    visit: impl Fn() -> T + Send + Sync + 'static,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    let home = match current_id() {
        0 => app(),
        id => id,
    };
    let ids = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    step(ids, Arc::new(visit), Vec::new(), home, done);
}

fn step<T: Send + 'static>(
    mut rest: Vec<u64>,
    visit: Arc<impl Fn() -> T + Send + Sync + 'static>,
    mut results: Vec<T>,
    home: u64,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    while let Some(id) = rest.pop() {
        if shared(id).is_none() {
            continue;
        }
        return send_boxed(id, move || {
            results.push(visit());
            step(rest, visit, results, home, done);
        });
    }
    send_boxed(home, move || done(results));
}

/// What `thread_get_stats` shows of one thread. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Info {
    /// Id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Core it runs on.
    pub core: usize,
    /// Cores it may run on.
    pub cpumask: CpuSet,
    /// Time in rounds that found work.
    pub busy_ns: u64,
    /// Time in others.
    pub idle_ns: u64,
    /// Its pollers.
    pub pollers: Vec<poller::Info>,
    /// Its io_channels: name of the bdev and number of references.
    pub channels: Vec<(String, u64)>,
}

/// What is to be told of the current thread. `None` outside of one.
#[must_use]
pub fn info() -> Option<Info> {
    with_current(|thread| Info {
        id: thread.shared.id,
        name: thread.shared.name.clone(),
        core: thread.shared.core.load(Ordering::Relaxed),
        cpumask: thread.cpumask.borrow().clone(),
        busy_ns: thread.busy_ns.get(),
        idle_ns: thread.idle_ns.get(),
        pollers: thread.pollers.borrow().iter().map(|poller| poller.info()).collect(),
        channels: thread.bdevs.channel_names(),
    })
}

/// Moves a thread to a core of `cpumask`, if it is not on one. Any thread.
///
/// # Errors
/// `ESRCH` for an unknown thread, `EINVAL` when no reactor runs on any of these cores.
pub fn set_cpumask(thread: u64, cpumask: CpuSet) -> Result<()> {
    if shared(thread).is_none() {
        return Err(Error::new(libc::ESRCH, format!("there is no thread {thread}")));
    }
    if !super::all().iter().any(|reactor| cpumask.contains(reactor.core)) {
        return Err(Error::new(libc::EINVAL, format!("no reactor runs in mask {cpumask:?}")));
    }
    send_boxed(thread, move || {
        with_current(|thread| {
            let here = thread.shared.core.load(Ordering::Relaxed);
            let target = super::all().iter().find(|reactor| cpumask.contains(reactor.core));
            if !cpumask.contains(here)
                && let Some(target) = target
            {
                thread.move_to.set(Some(target.core));
            }
            thread.cpumask.replace(cpumask);
        });
    });
    Ok(())
}

/// Ends the current thread after this round, once it has no poller and no channel.
pub fn exit_current() {
    with_current(|thread| thread.exiting.set(true));
}

impl Shared {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn core(&self) -> usize {
        self.core.load(Ordering::Relaxed)
    }

    pub(super) fn doing(&self) -> &Doing {
        let Line(doing) = &self.doing;
        doing
    }

    /// Whether a lightweight thread asks that is on the same reactor. What is on this one can only leave it
    /// here, and has [`NOWHERE`] for its core from then on.
    #[inline]
    fn is_here(&self) -> bool {
        let core = self.core.load(Ordering::Relaxed);
        core != NOWHERE
            && with_current(|thread| thread.shared.core.load(Ordering::Relaxed)) == Some(core)
    }

    /// The thread has ended: the app thread takes what was sent meanwhile.
    #[cold]
    fn pass_on_late(&self) {
        while let Some(msg) = self.queue.pop_late() {
            // SAFETY: popped messages are the receiver's; the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            let arg = arg as usize;
            send_app(move || {
                if let Some(call) = call {
                    // SAFETY: call and argument belong together (contract of `send`).
                    unsafe { call(arg as *mut c_void) };
                }
            });
        }
    }
}

impl Moving {
    /// Arrives at `reactor`.
    pub(super) fn settle(self, reactor: &Arc<Reactor>) -> Rc<Thread> {
        self.0.shared.core.store(reactor.core, Ordering::Release);
        for poller in self.0.pollers.borrow().iter() {
            for &(fd, events) in poller.wake_fds.borrow().iter() {
                if let Err(error) = reactor.sleeper.watch(fd, events, self.0.shared.id) {
                    tracing::error!(poller = poller.name, "lost a wake-up descriptor: {error}");
                }
            }
        }
        self.0
    }
}

impl Thread {
    /// One round; whether there was work.
    pub(super) fn round(&self, most_messages: usize) -> bool {
        CURRENT.set(self);
        let now = clock::now();
        // What the last round took, and the sleep behind it, which only follows an idle one.
        let spent = now.saturating_sub(self.last_ns.replace(now));
        let counter = if self.was_busy.get() { &self.busy_ns } else { &self.idle_ns };
        counter.set(counter.get() + spent);
        if self.is_asleep.replace(false) {
            for poller in self.pollers() {
                self.shared.doing().begin(poller.function(), poller.id);
                poller.woke();
            }
        }
        let mut busy = self.run_messages(most_messages);
        busy |= self.run_pollers(now);
        self.bdevs.end_round();
        self.was_busy.set(busy);
        self.shared.doing().end();
        CURRENT.set(ptr::null());
        busy
    }

    pub(super) fn id(&self) -> u64 {
        self.shared.id
    }

    fn run_messages(&self, most: usize) -> bool {
        for taken in 0..most {
            let Some(msg) = self.shared.queue.pop() else { return taken > 0 };
            // SAFETY: popped messages are the receiver's; the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            if let Some(call) = call {
                self.shared.doing().begin(call as usize, 0);
                // SAFETY: call and argument belong together (contract of `send`).
                unsafe { call(arg) };
            }
        }
        true
    }

    /// By index: a poller may add and remove pollers, itself included.
    fn pollers(&self) -> impl Iterator<Item = Rc<Poller>> {
        (0..).map_while(|index| self.pollers.borrow().get(index).map(Rc::clone))
    }

    fn run_pollers(&self, now: u64) -> bool {
        let mut busy = false;
        for poller in self.pollers() {
            self.shared.doing().begin(poller.function(), poller.id);
            busy |= poller.round(now);
        }
        if self.some_gone.take() {
            self.pollers.borrow_mut().retain(|poller| poller.state.get() != State::Gone);
        }
        busy
    }

    pub(super) fn has_messages(&self) -> bool {
        !self.shared.queue.is_empty()
    }

    /// Asks every poller to prepare for sleep; whether one of them has work or cannot sleep. They learn with
    /// the next round that it is over.
    pub(super) fn prepare_sleep(&self) -> bool {
        CURRENT.set(self);
        self.is_asleep.set(true);
        let prepare = |poller: Rc<Poller>| {
            self.shared.doing().begin(poller.function(), poller.id);
            poller.prepare_sleep()
        };
        let work = self.bdevs.has_work() || self.pollers().any(prepare);
        self.shared.doing().end();
        CURRENT.set(ptr::null());
        work
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let pollers = self.pollers.borrow();
        let deadline = |poller: &Rc<Poller>| {
            self.shared.doing().begin(poller.function(), poller.id);
            poller.deadline()
        };
        let first = pollers.iter().filter_map(deadline).chain(self.bdevs.deadline()).min();
        self.shared.doing().end();
        first
    }

    pub(super) fn leaves(&self) -> bool {
        self.move_to.get().is_some()
            || (self.exiting.get()
                && self.pollers.borrow().is_empty()
                && self.bdevs.is_empty()
                && !self.has_messages())
    }

    /// Moves on or ends.
    pub(super) fn depart(self: Rc<Self>) {
        self.unwatch_all();
        self.shared.core.store(NOWHERE, Ordering::Relaxed);
        let Some(target) = self.move_to.take() else {
            let shared = self.shared;
            self.end();
            return shared.pass_on_late();
        };
        if let Some(reactor) = by_core(target)
            && let Err(error) = reactor.adopt(Moving(self))
        {
            tracing::error!("a thread was lost on its way to core {target}: {error}");
        }
    }

    fn unwatch_all(&self) {
        let Some(reactor) = current() else { return };
        for poller in self.pollers.borrow().iter() {
            for &(fd, _) in poller.wake_fds.borrow().iter() {
                // The descriptor may be closed already, which removed it.
                let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            }
        }
    }

    /// Takes its name out of the tables. What it still has stays where it is.
    pub(super) fn end(self: Rc<Self>) {
        let id = self.shared.id;
        ALL.lock().unwrap_or_else(PoisonError::into_inner).retain(|&other| other != id);
        if let Some(slot) = slot(id) {
            slot.store(ptr::null_mut(), Ordering::Release);
        }
        self.shared.queue.end();
    }

    /// Adds a poller.
    ///
    /// # Safety
    /// As [`Poller::new`].
    pub(crate) unsafe fn add_poller(
        &self,
        name: String,
        owner: usize,
        ops: bay_poller_ops,
        ctx: *mut c_void,
        period_us: u64,
    ) -> Result<u64> {
        let id = self.next_poller.replace(self.next_poller.get() + 1);
        // SAFETY: by this function's contract.
        let poller = unsafe { Poller::new(id, name, owner, ops, ctx, period_us) }?;
        watch::poller_comes(self.shared.id, id, &poller.name);
        self.pollers.borrow_mut().push(Rc::new(poller));
        Ok(id)
    }

    fn poller(&self, id: u64) -> Result<Rc<Poller>> {
        let pollers = self.pollers.borrow();
        let alive =
            pollers.iter().find(|poller| poller.id == id && poller.state.get() != State::Gone);
        alive
            .map(Rc::clone)
            .ok_or_else(|| Error::new(libc::ENOENT, format!("this thread has no poller {id}")))
    }

    pub(crate) fn set_poller_state(&self, id: u64, state: State) -> Result<()> {
        let poller = self.poller(id)?;
        poller.state.set(state);
        if state == State::Gone {
            watch::poller_goes(self.shared.id, id);
            self.some_gone.set(true);
            let Some(reactor) = current() else { return Ok(()) };
            for (fd, _) in poller.wake_fds.take() {
                let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            }
        }
        Ok(())
    }

    pub(crate) fn watch_fd(&self, id: u64, fd: RawFd, events: u32) -> Result<()> {
        let poller = self.poller(id)?;
        let reactor = current().ok_or_else(|| Error::new(libc::EPERM, "not on a reactor"))?;
        let mut fds = poller.wake_fds.borrow_mut();
        if events == 0 {
            fds.retain(|&(other, _)| other != fd);
            let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            return Ok(());
        }
        reactor.sleeper.watch(fd, events, self.shared.id)?;
        fds.push((fd, events));
        Ok(())
    }

    pub(crate) fn pollers_of(&self, owner: usize) -> usize {
        self.pollers.borrow().iter().filter(|poller| poller.owner == owner).count()
    }

    pub(crate) fn drop_pollers_of(&self, owner: usize) {
        let ids: Vec<u64> = {
            let pollers = self.pollers.borrow();
            pollers.iter().filter(|poller| poller.owner == owner).map(|poller| poller.id).collect()
        };
        for id in ids {
            let _ = self.set_poller_state(id, State::Gone);
        }
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thread").field("id", &self.shared.id).finish_non_exhaustive()
    }
}
