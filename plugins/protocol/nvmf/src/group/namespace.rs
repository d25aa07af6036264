//! A thread's copy of a subsystem's namespaces, with its channels.

use super::copy::{self, Copies};
use super::pieces::{self, LongCommands};
use super::reservation::Guard;
use crate::model::{Access, CommandLimits, Geometry, Namespace, refusal};
use crate::ops::Reply;
use drivebay_sdk::bdev::{Channel, IoContext, IoFlags, IoResult, Op};
use drivebay_sdk::poller::Poll;
use drivebay_spec_nvme::Status;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// A thread's copy of a subsystem.
#[derive(Debug, Default)]
pub struct LocalSubsystem {
    /// By number.
    namespaces: RefCell<Vec<Option<Rc<LocalNamespace>>>>,
    /// How each listener serves the ANA groups, by the listener's number.
    access: RefCell<BTreeMap<u16, Rc<LocalAccess>>>,
}

/// A thread's copy of how a listener serves the ANA groups.
#[derive(Debug)]
pub struct LocalAccess {
    /// Whether the listener refuses the I/O of any group. If not, an I/O reads only this flag.
    refuses_any: Cell<bool>,
    access: RefCell<Access>,
}

/// A thread's copy of a namespace. Its states: serving → ending (no I/O begins) → gone (no I/O is in flight).
pub struct LocalNamespace {
    /// The properties against which I/O is checked.
    pub geometry: Cell<Geometry>,
    /// ANA group.
    pub anagrpid: Cell<u32>,
    /// The limits against which long commands are checked.
    pub limits: CommandLimits,
    /// The thread's copy of its reservation.
    pub guard: Guard,
    channel: RefCell<Option<Channel>>,
    in_flight: Cell<u64>,
    is_ending: Cell<bool>,
    /// Whether an operation waits until no I/O is in flight.
    is_watched: Cell<bool>,
    draining: RefCell<Vec<Reply>>,
    is_dirty: Cell<bool>,
    ended: RefCell<Option<Box<dyn FnOnce()>>>,
    chores: Rc<Chores>,
}

impl fmt::Debug for LocalNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("LocalNamespace");
        out.field("in_flight", &self.in_flight).field("is_ending", &self.is_ending);
        out.finish_non_exhaustive()
    }
}

impl LocalSubsystem {
    /// Runs `body` with a namespace, even an ending one; `None` when it does not exist.
    #[inline]
    pub fn with<V>(&self, nsid: u32, body: impl FnOnce(&Rc<LocalNamespace>) -> V) -> Option<V> {
        // Borrowed during a submit. The table changes only between rounds.
        self.namespaces.borrow().get(nsid as usize)?.as_ref().map(body)
    }

    /// The namespace, even an ending one.
    pub fn find(&self, nsid: u32) -> Option<Rc<LocalNamespace>> {
        self.with(nsid, Rc::clone)
    }

    /// Adds a namespace.
    pub fn add(&self, nsid: u32, namespace: Rc<LocalNamespace>) {
        let mut table = self.namespaces.borrow_mut();
        let place = nsid as usize;
        if table.len() <= place {
            table.resize(place + 1, None);
        }
        if let Some(place) = table.get_mut(place) {
            *place = Some(namespace);
        }
    }

    /// Removes a namespace that has ended.
    pub fn remove(&self, nsid: u32) {
        if let Some(place) = self.namespaces.borrow_mut().get_mut(nsid as usize) {
            *place = None;
        }
    }

    /// I/Os in the bdevs.
    pub fn in_flight(&self) -> u64 {
        let namespaces = self.namespaces.borrow();
        namespaces.iter().flatten().map(|namespace| namespace.in_flight.get()).sum()
    }

    /// How a listener serves the ANA groups; `None` for an unknown listener.
    pub fn access(&self, portid: u16) -> Option<Rc<LocalAccess>> {
        self.access.borrow().get(&portid).cloned()
    }

    /// Sets how a listener serves the ANA groups; `None` removes the listener.
    pub fn set_access(&self, portid: u16, access: Option<Access>) {
        let mut all = self.access.borrow_mut();
        match access {
            Some(access) => match all.get(&portid) {
                Some(known) => known.set(access),
                None => drop(all.insert(portid, Rc::new(LocalAccess::new(access)))),
            },
            None => drop(all.remove(&portid)),
        }
    }
}

impl LocalAccess {
    fn new(access: Access) -> Self {
        Self { refuses_any: Cell::new(access.refuses_any()), access: RefCell::new(access) }
    }

    fn set(&self, access: Access) {
        self.refuses_any.set(access.refuses_any());
        self.access.replace(access);
    }

    /// The status with which the I/O of a namespace is refused; `None` when it is served.
    #[inline]
    pub fn refusal(&self, namespace: &LocalNamespace) -> Option<Status> {
        if self.refuses_any.get() { self.refusal_of(namespace.anagrpid.get()) } else { None }
    }

    #[cold]
    fn refusal_of(&self, group: u32) -> Option<Status> {
        refusal(self.access.borrow().state(group))
    }
}

impl LocalNamespace {
    /// Creates a namespace that serves.
    pub fn new(
        namespace: &Namespace,
        limits: CommandLimits,
        channel: Channel,
        chores: Rc<Chores>,
    ) -> Rc<Self> {
        Rc::new(Self {
            geometry: Cell::new(namespace.geometry),
            anagrpid: Cell::new(namespace.anagrpid),
            limits,
            guard: Guard::default(),
            channel: RefCell::new(Some(channel)),
            in_flight: Cell::new(0),
            is_ending: Cell::new(false),
            is_watched: Cell::new(false),
            draining: RefCell::default(),
            is_dirty: Cell::new(false),
            ended: RefCell::default(),
            chores,
        })
    }

    /// Whether further I/O is refused.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// Submits an I/O with the data of the context. `done` as in [`Channel::submit`]; it must call [`leave`](Self::leave).
    #[inline]
    pub fn submit<C, F>(self: &Rc<Self>, op: Op, flags: IoFlags, context: C, done: F)
    where
        C: IoContext,
        F: Fn(C, IoResult) + Copy + 'static,
    {
        self.in_flight.set(self.in_flight.get() + 1);
        if !self.is_dirty.replace(true) {
            self.chores.dirty.borrow_mut().push(Rc::clone(self));
        }
        if let Some(channel) = &*self.channel.borrow() {
            channel.submit(op, flags, context, done);
        }
    }

    /// Counts an I/O as ended.
    #[inline]
    pub fn leave(self: &Rc<Self>) {
        self.in_flight.set(self.in_flight.get() - 1);
        if self.is_watched.get() && self.in_flight.get() == 0 {
            self.chores.drained.borrow_mut().push(Rc::clone(self));
        }
    }

    /// Sends `reply` when no I/O is in flight, even if only for a moment.
    pub fn drain(self: &Rc<Self>, reply: Reply) {
        self.draining.borrow_mut().push(reply);
        self.watch();
    }

    fn watch(self: &Rc<Self>) {
        self.is_watched.set(true);
        if self.in_flight.get() == 0 {
            self.chores.drained.borrow_mut().push(Rc::clone(self));
        }
    }

    /// Refuses further I/O. Calls `ended` when no I/O is in flight and the channel is put.
    pub fn end(self: &Rc<Self>, ended: impl FnOnce() + 'static) {
        self.is_ending.set(true);
        self.ended.replace(Some(Box::new(ended)));
        self.watch();
    }
}

/// Work that a group does between rounds, outside of completions: a completion must not put a channel.
#[derive(Debug, Default)]
pub struct Chores {
    /// Namespaces with submits since the last round.
    dirty: RefCell<Vec<Rc<LocalNamespace>>>,
    /// Namespaces whose last I/O has ended.
    drained: RefCell<Vec<Rc<LocalNamespace>>>,
    /// Commands that the group executes in pieces.
    pub(super) long: RefCell<LongCommands>,
    /// Copy commands.
    pub(super) copies: RefCell<Copies>,
}

impl Chores {
    fn next_dirty(&self) -> Option<Rc<LocalNamespace>> {
        self.dirty.borrow_mut().pop()
    }

    fn next_drained(&self) -> Option<Rc<LocalNamespace>> {
        self.drained.borrow_mut().pop()
    }

    fn are_done(&self) -> bool {
        self.dirty.borrow().is_empty()
            && self.drained.borrow().is_empty()
            && self.long.borrow().is_idle()
            && self.copies.borrow().is_idle()
    }
}

/// The poller that does this work.
#[derive(Debug)]
pub(super) struct DoChores(pub(super) Rc<Chores>);

impl Poll for DoChores {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let mut did = pieces::submit_round(&self.0) | copy::step(&self.0);
        while let Some(namespace) = self.0.next_dirty() {
            did = true;
            namespace.is_dirty.set(false);
            if let Some(channel) = &*namespace.channel.borrow() {
                channel.flush();
            }
        }
        while let Some(namespace) = self.0.next_drained() {
            did = true;
            namespace.draining.take().into_iter().for_each(|reply| reply.send(Ok(())));
            if !namespace.is_ending() {
                namespace.is_watched.set(false);
                continue;
            }
            drop(namespace.channel.take());
            let ended = namespace.ended.take();
            if let Some(ended) = ended {
                ended();
            }
        }
        did
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.0.are_done()
    }
}
