//! Lightweight threads: movable, cooperative units with messages, pollers and io_channels.
//!
//! A thread belongs to one reactor at a time and only runs there. The part that other threads need
//! (its message queue and its core) is in `Shared`. The host never frees `Shared`, so a late sender
//! finds an ended thread instead of freed memory.
#![expect(unsafe_code, reason = "messages are intrusive and threads move between OS threads")]

use crate::bdev::path::round;
use crate::bdev::state::ThreadChannels;
use crate::env::CpuSet;
use crate::reactor::line::Line;
use crate::reactor::message::Queue;
use crate::reactor::pins;
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

/// The maximum number of threads at a time.
pub const MAX_THREADS: usize = 4096;
/// The maximum number of messages that one round takes, so that pollers get their turn.
pub(super) const MESSAGES_PER_ROUND: usize = 64;

/// The part of a thread that other OS threads use.
pub(crate) struct Shared {
    id: u64,
    name: String,
    queue: Queue,
    /// The core of the thread's reactor. A new thread has the core of the reactor that it will run
    /// on. [`NOWHERE`] while it moves, and after its end.
    core: AtomicUsize,
    /// What the thread calls now, for the watchdog.
    doing: Line<Doing>,
}

/// No core: the thread is moving to another reactor, or it has ended.
const NOWHERE: usize = usize::MAX;

/// One lightweight thread. Only its reactor uses it.
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
    /// Whether the last round found work.
    was_busy: Cell<bool>,
    last_ns: Cell<u64>,
    /// Whether its pollers are prepared for sleep.
    is_asleep: Cell<bool>,
    /// The io_channels of bdevs.
    pub(crate) bdevs: ThreadChannels,
}

/// A thread on its way to a reactor.
pub(crate) struct Moving(Rc<Thread>);

// SAFETY: it carries the only reference to the thread, and nobody runs the thread in the meantime.
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
    // SAFETY: `Shared`s are leaked, so every pointer that was published stays valid.
    let shared = unsafe { shared.as_ref() }?;
    (shared.id == id).then_some(shared)
}

/// The part of all threads that other OS threads use.
pub(super) fn all_shared() -> Vec<&'static Shared> {
    let ids = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ids.into_iter().filter_map(shared).collect()
}

/// The id of the current thread; 0 outside of a lightweight thread.
#[must_use]
pub fn current_id() -> u64 {
    with_current(|thread| thread.shared.id).unwrap_or(0)
}

/// The id of the thread that runs the control plane; 0 before the reactors start.
#[must_use]
pub fn app() -> u64 {
    APP.load(Ordering::Acquire)
}

/// Runs `f` with the current thread; `None` outside of a lightweight thread.
pub(crate) fn with_current<T>(f: impl FnOnce(&Thread) -> T) -> Option<T> {
    let thread = CURRENT.get();
    // SAFETY: `Thread::round` and `Thread::prepare_sleep` set it while they borrow the thread.
    unsafe { thread.as_ref() }.map(f)
}

/// The address of the current thread, only for comparisons; 0 outside of a thread. A new thread may
/// get the address of one that has ended.
#[inline]
pub(crate) fn here() -> usize {
    CURRENT.get().addr()
}

pub(super) fn create_app(cores: &CpuSet) -> Result<()> {
    let app = create("app_thread", &CpuSet::one(cores.first()))?;
    APP.store(app, Ordering::Release);
    Ok(())
}

/// Creates a thread on the least loaded reactor that `cpumask` allows. Any OS thread.
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
    let shared = publish(name, reactor.core)?;
    reactor.threads.fetch_add(1, Ordering::Relaxed);
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
        bdevs: ThreadChannels::default(),
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
    Err(Error::new(
        libc::EAGAIN,
        format!("there are already {MAX_THREADS} threads, which is the limit"),
    ))
}

/// Sends an intrusive message. Any OS thread. If the thread ends before it takes the message, the
/// message is called on the app thread.
///
/// # Errors
/// `ESRCH` when there is no such thread; the caller then still owns the message.
///
/// # Safety
/// `msg` is valid, its `call` is set, and nobody touches it until it is called.
pub unsafe fn send(thread: u64, msg: *mut bay_msg) -> Result<()> {
    let shared = shared(thread)
        .ok_or_else(|| Error::new(libc::ESRCH, format!("there is no thread {thread}")))?;
    if shared.is_here() {
        // Its reactor is awake, because it runs the sender.
        // SAFETY: the caller guarantees this, and this is the OS thread of the receiver.
        unsafe { shared.queue.push_here(msg) };
        return Ok(());
    }
    // SAFETY: the caller guarantees this.
    unsafe { shared.queue.push(msg) };
    // The other sides have a full fence, too: a sleeper between its announcement and its check of
    // the queue, a moving thread between the store of its new core and that check, an ending thread
    // between `Queue::end` and that check.
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
    // SAFETY: `send_boxed` made this box, and nobody else has it.
    let boxed = unsafe { Box::from_raw(arg.cast::<Boxed<F>>()) };
    (boxed.call)();
}

/// Sends a closure to a thread, for the control path. The closure is dropped when the thread is
/// gone.
pub fn send_boxed<F: FnOnce() + Send + 'static>(thread: u64, call: F) {
    let msg = bay_msg {
        call: Some(call_boxed::<F>),
        arg: ptr::null_mut(),
        link: ptr::null_mut(),
        rsv: 0,
    };
    let boxed = Box::into_raw(Box::new(Boxed { msg, call }));
    // SAFETY: we own the box, and it is valid.
    unsafe { (*boxed).msg.arg = boxed.cast() };
    // SAFETY: the message is the first field of a box that lives until the message is called.
    if unsafe { send(thread, boxed.cast()) }.is_err() {
        // SAFETY: the message was not sent, so we still own the box.
        drop(unsafe { Box::from_raw(boxed) });
    }
}

/// Runs a closure on the app thread.
pub fn send_app<F: FnOnce() + Send + 'static>(call: F) {
    send_boxed(app(), call);
}

/// Runs `visit` on every thread, one after another. Then runs `done` with the results on the thread
/// of the caller (the app thread when the caller is outside of a thread).
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

/// What `thread_get_stats` reports about one thread. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Info {
    /// The thread's id.
    pub id: u64,
    /// The thread's name.
    pub name: String,
    /// The core that it runs on.
    pub core: usize,
    /// The cores that it may run on.
    pub cpumask: CpuSet,
    /// The time in rounds that found work.
    pub busy_ns: u64,
    /// The time in all other rounds.
    pub idle_ns: u64,
    /// Its pollers.
    pub pollers: Vec<poller::Info>,
    /// Its io_channels: the name of the bdev and the number of references.
    pub channels: Vec<(String, u64)>,
}

/// Returns information about the current thread; `None` outside of one.
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

/// Sets the cores of a thread. If the thread runs on another core, it moves to one of these cores.
/// Any thread.
///
/// # Errors
/// `ESRCH` for an unknown thread; `EINVAL` when no reactor runs on any of these cores; `EBUSY` when
/// the thread would have to move and a plugin forbids that ([`pins`]).
pub fn set_cpumask(thread: u64, cpumask: CpuSet) -> Result<()> {
    let shared = shared(thread)
        .ok_or_else(|| Error::new(libc::ESRCH, format!("there is no thread {thread}")))?;
    if !super::all().iter().any(|reactor| cpumask.contains(reactor.core)) {
        return Err(Error::new(libc::EINVAL, format!("no reactor runs in mask {cpumask:?}")));
    }
    if !cpumask.contains(shared.core()) {
        pins::check(&shared.name)?;
    }
    send_boxed(thread, move || {
        with_current(|thread| {
            let here = thread.shared.core.load(Ordering::Relaxed);
            let target = super::all().iter().find(|reactor| cpumask.contains(reactor.core));
            // This also cancels the move of an earlier call in this round.
            let target = target.filter(|_| !cpumask.contains(here));
            thread.move_to.set(target.map(|reactor| reactor.core));
            thread.cpumask.replace(cpumask);
        });
    });
    Ok(())
}

/// Ends the current thread at the end of a round, as soon as it has no pollers, channels or
/// messages.
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

    /// Whether the caller is a lightweight thread on the same reactor. A thread leaves this reactor
    /// only by a call that runs on this reactor. From then on its core is [`NOWHERE`].
    #[inline]
    fn is_here(&self) -> bool {
        let core = self.core.load(Ordering::Relaxed);
        core != NOWHERE
            && with_current(|thread| thread.shared.core.load(Ordering::Relaxed)) == Some(core)
    }

    /// The thread has ended: calls the messages that were sent in the meantime on the app thread.
    #[cold]
    fn pass_on_late(&self) {
        while let Some(msg) = self.queue.pop_late() {
            // SAFETY: the receiver owns a popped message, and the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            let arg = arg as usize;
            send_app(move || {
                if let Some(call) = call {
                    // SAFETY: the function and its argument belong together (contract of `send`).
                    unsafe { call(arg as *mut c_void) };
                }
            });
        }
    }
}

impl Moving {
    /// The thread arrives at `reactor`.
    pub(super) fn settle(self, reactor: &Arc<Reactor>) -> Rc<Thread> {
        self.0.shared.core.store(reactor.core, Ordering::Release);
        for poller in self.0.pollers.borrow().iter() {
            for &(fd, events) in poller.wake_fds.borrow().iter() {
                if let Err(error) = reactor.sleeper.watch(fd, events, self.0.shared.id) {
                    tracing::error!(
                        poller = poller.name,
                        "cannot watch a wake-up descriptor after a move: {error}"
                    );
                }
            }
        }
        self.0
    }
}

impl Thread {
    /// Runs one round. Returns whether there was work.
    pub(super) fn round(&self, most_messages: usize) -> bool {
        CURRENT.set(self);
        let now = clock::now();
        // The time that the last round took, and the sleep after it. A sleep only follows an idle
        // round.
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
        round::end(&self.bdevs);
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
            // SAFETY: the receiver owns a popped message, and the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            if let Some(call) = call {
                self.shared.doing().begin(call as usize, 0);
                // SAFETY: the function and its argument belong together (contract of `send`).
                unsafe { call(arg) };
            }
        }
        true
    }

    /// Iterates by index, because a poller may add and remove pollers, even itself.
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

    /// Asks every poller to prepare for sleep. Returns whether one of them has work or cannot
    /// sleep. The pollers' `woke` runs at the start of the next round.
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

    pub(super) fn is_leaving(&self) -> bool {
        self.moves()
            || (self.exiting.get()
                && self.pollers.borrow().is_empty()
                && self.bdevs.is_empty()
                && !self.has_messages())
    }

    /// Whether the thread must move now. A plugin that was loaded after `set_cpumask` may forbid it.
    /// A pin begins before the plugin's first call, so a plugin without a pin has no state here.
    fn moves(&self) -> bool {
        if self.move_to.get().is_none() {
            return false;
        }
        let may_move = pins::check(&self.shared.name);
        if let Err(error) = &may_move {
            self.move_to.set(None);
            tracing::warn!("{error}");
        }
        may_move.is_ok()
    }

    /// Moves the thread to its new core, or ends it.
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
            tracing::error!("lost a thread that moved to core {target}: {error}");
        }
    }

    fn unwatch_all(&self) {
        let Some(reactor) = current() else { return };
        for poller in self.pollers.borrow().iter() {
            for &(fd, _) in poller.wake_fds.borrow().iter() {
                // The descriptor may already be closed, which removed it.
                let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            }
        }
    }

    /// Removes the thread from the tables. Its remaining pollers and channels are not freed.
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
    /// As for [`Poller::new`].
    pub(crate) unsafe fn add_poller(
        &self,
        name: String,
        owner: usize,
        ops: bay_poller_ops,
        ctx: *mut c_void,
        period_us: u64,
    ) -> Result<u64> {
        let id = self.next_poller.replace(self.next_poller.get() + 1);
        // SAFETY: the caller guarantees this.
        let poller = unsafe { Poller::new(id, name, owner, ops, ctx, period_us) }?;
        watch::poller_added(self.shared.id, id, &poller.name);
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
            watch::poller_removed(self.shared.id, id);
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
