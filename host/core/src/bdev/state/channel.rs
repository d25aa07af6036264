//! The io_channel of a bdev: the state that one lightweight thread keeps for it. All descriptors
//! that are used on the thread share the channel.

use super::bdev::Bdev;
use super::counters::Counters;
use super::gate::Gate;
use super::io::Io;
use super::limits::Limits;
use super::pool::{Pool, most_io};
use super::queue::Queue;
use super::quiesced::Quiesced;
use super::reserve::Reserve;
use super::thread_channels::ThreadChannels;
use super::waiters::Waiters;
use crate::reactor::{clock, thread};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// One thread's state for one bdev. Boxed and never moved.
pub(crate) struct Channel {
    // Fields that every I/O reads.
    pub(in crate::bdev) gate: Gate,
    /// An I/O was submitted to the module in this round, so the module's `flush` runs at the end of
    /// the round. Always true when the module has no `flush`: then there is nothing to call.
    pub(in crate::bdev) dirty: Cell<bool>,
    /// The channel's thread, as returned by `thread::here`.
    home: usize,
    pub(in crate::bdev) outstanding: Cell<u32>,
    pub(in crate::bdev) submit: bay_submit_fn,
    pub(in crate::bdev) module: Cell<*mut c_void>,
    pub(in crate::bdev) bdev: Arc<Bdev>,
    pub(in crate::bdev) limits: Limits,
    /// I/O that arrived during a call of the module. It goes to the module when that call ends.
    pub(in crate::bdev) deferred: Queue,
    pub(in crate::bdev) pool: Pool,
    io_waiters: Waiters,
    pub(in crate::bdev) stats: Counters,
    /// The bases that can take every read and write within this filter's limits (see `pass`).
    bases: Bases,
    // Fields that only the slow paths read.
    /// I/O that waits for resources of the module or for the channel's creation or reset.
    waiting: Queue,
    /// I/O that waits for `unquiesce`.
    pub(in crate::bdev) quiesced: Queue,
    /// The quiesced ranges.
    pub(in crate::bdev) ranges: RefCell<Vec<Quiesced>>,
    /// I/O that waits for one of the host's buffers.
    pub(in crate::bdev) starved: Queue,
    pub(in crate::bdev) reserve: Reserve,
    /// The channel's entry in the queue for buffers; `waits_for_buffer` says whether it is queued.
    pub(in crate::bdev) buffer_wait: UnsafeCell<bay_wait>,
    pub(in crate::bdev) waits_for_buffer: Cell<bool>,
    /// When waiting I/O is submitted to the module again, in nanoseconds; 0 = now.
    pub(in crate::bdev) retry_at_ns: Cell<u64>,
    pub(in crate::bdev) is_scheduled: Cell<bool>,
    pub(in crate::bdev) phase: Cell<Phase>,
    pub(in crate::bdev) failure: Cell<i32>,
    /// The number of I/Os of a failed module that cannot complete yet.
    pub(in crate::bdev) quarantined: Cell<u32>,
    pub(in crate::bdev) refs: Cell<u32>,
    /// The id of the channel's thread.
    pub(in crate::bdev) thread: u64,
    /// The handle by which the module names this channel. A thread never uses a handle twice.
    pub(in crate::bdev) handle: u64,
    /// What a module calls to complete an I/O of this channel.
    pub(super) done: bay_done_fn,
}

/// Whether the module's part of the channel exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bdev) enum Phase {
    /// The module creates its part of the channel; I/O waits.
    Creating,
    Ready,
    /// The module could not create its part; I/O completes with `failure`.
    Failed,
    /// The module destroys its part.
    Closing,
}

/// The functions of the path that a new channel stores, because this room does not know the path.
pub(in crate::bdev) struct Calls {
    /// What a module calls to complete an I/O.
    pub(in crate::bdev) done: bay_done_fn,
    /// Called with the channel when a buffer is free for the I/O in `starved`.
    pub(in crate::bdev) buffer_is_free: unsafe extern "C" fn(*mut c_void),
}

impl Channel {
    /// A channel whose module part does not exist yet.
    pub(in crate::bdev) fn new(
        bdev: &Arc<Bdev>,
        submit: bay_submit_fn,
        handle: u64,
        calls: Calls,
    ) -> Self {
        let gate = Gate::default();
        gate.set(Gate::CREATION);
        Self {
            gate,
            dirty: Cell::new(bdev.ops.flush.is_none()),
            home: thread::here(),
            outstanding: Cell::new(0),
            submit,
            module: Cell::new(ptr::null_mut()),
            bdev: Arc::clone(bdev),
            limits: Limits::of(&bdev.record, bdev.ops_allowed()),
            deferred: Queue::default(),
            pool: Pool::new(bdev.record.drv_ctx_size),
            io_waiters: Waiters::new(),
            stats: Counters::default(),
            bases: Bases::default(),
            waiting: Queue::default(),
            quiesced: Queue::default(),
            ranges: RefCell::default(),
            starved: Queue::default(),
            reserve: Reserve::default(),
            buffer_wait: UnsafeCell::new(bay_wait {
                cb: Some(calls.buffer_is_free),
                arg: ptr::null_mut(),
                link: ptr::null_mut(),
                rsv: 0,
            }),
            waits_for_buffer: Cell::new(false),
            retry_at_ns: Cell::new(0),
            is_scheduled: Cell::new(false),
            phase: Cell::new(Phase::Creating),
            failure: Cell::new(0),
            quarantined: Cell::new(0),
            refs: Cell::new(0),
            thread: thread::current_id(),
            handle,
            done: calls.done,
        }
    }

    /// Whether the caller is on the channel's thread. Any OS thread.
    #[inline]
    pub(in crate::bdev) fn is_here(&self) -> bool {
        self.home == thread::here()
    }

    /// Returns an I/O that the client fills and submits. `None`: the limit is reached, and `wait`
    /// is queued.
    ///
    /// # Safety
    /// `wait` is null or stays valid until its callback or its abort.
    #[inline]
    pub(in crate::bdev) unsafe fn io_get(&self, wait: *mut bay_wait) -> Option<Io> {
        match self.pool.get_free() {
            Some(io) => Some(io),
            // SAFETY: the caller guarantees this.
            None => unsafe { self.io_get_new(wait) },
        }
    }

    /// # Safety
    /// As `io_get`.
    #[cold]
    #[inline(never)]
    unsafe fn io_get_new(&self, wait: *mut bay_wait) -> Option<Io> {
        if self.pool.made() >= most_io() {
            // SAFETY: the caller guarantees this.
            unsafe { self.io_waiters.push(wait) };
            return None;
        }
        Some(self.pool.get(self))
    }

    /// Removes `wait` from the queue for I/O. Returns whether it was queued.
    pub(in crate::bdev) fn io_abort(&self, wait: *mut bay_wait) -> bool {
        self.io_waiters.remove(wait)
    }

    /// Gives an I/O that nobody uses any more back to the pool.
    #[inline]
    pub(in crate::bdev) fn give_back(&self, io: Io) {
        self.pool.put(io);
        if !self.io_waiters.is_empty() {
            self.io_waiters.call_first();
        }
    }

    /// Copies the bdev's list of quiesced ranges.
    pub(in crate::bdev) fn copy_quiesced(&self) {
        self.ranges.borrow_mut().clone_from(&self.bdev.control().quiesced);
        self.gate.put(Gate::QUIESCE, !self.ranges.borrow().is_empty());
    }
}

// ---- the bases of a filter ------------------------------------------------------------------------

/// A filter's handles of its bases, each with the channel that the handle names. A channel lives at
/// least as long as its entry. The lower bits of a handle select its entry, so bases that were
/// opened one after another get different entries.
struct Bases([Cell<(u64, *const Channel)>; 16]);

impl Default for Bases {
    fn default() -> Self {
        Self([const { Cell::new((0, ptr::null())) }; 16])
    }
}

impl Bases {
    #[inline]
    fn place(&self, handle: u64) -> &Cell<(u64, *const Channel)> {
        let [first, ..] = &self.0;
        let place = usize::try_from(handle).unwrap_or(0) % self.0.len();
        self.0.get(place).unwrap_or(first)
    }
}

impl Channel {
    /// Returns the base channel of `handle` if `vouch` recorded it; otherwise `None`, and the
    /// caller makes the full checks.
    #[inline]
    pub(in crate::bdev) fn vouched_base(&self, handle: u64) -> Option<&Self> {
        let (vouched, channel) = self.bases.place(handle).get();
        if vouched != handle {
            return None;
        }
        // SAFETY: the pointer is null, or the channel is alive until `forget_base`, which runs
        // before the handle is closed.
        unsafe { channel.as_ref() }
    }

    /// Records that the base that the filter knows as `handle` can take every read and write within
    /// the filter's limits.
    pub(in crate::bdev) fn vouch(&self, handle: u64, base: &Self) {
        self.bases.place(handle).set((handle, base));
    }

    /// Forgets the base, because its handle is being closed.
    pub(in crate::bdev) fn forget_base(&self, handle: u64) {
        let place = self.bases.place(handle);
        if place.get().0 == handle {
            place.set((0, ptr::null()));
        }
    }
}

// ---- waiting I/O ----------------------------------------------------------------------------------

impl Channel {
    pub(in crate::bdev) fn push_waiting(&self, io: Io) {
        self.waiting.push_back(io);
        self.gate.set(Gate::WAITED);
    }

    /// Puts the I/O at the front of the queue. The module is asked again after at most `ns`
    /// nanoseconds.
    pub(in crate::bdev) fn push_waiting_first(&self, io: Io, ns: u64) {
        self.waiting.push_front(io);
        self.gate.set(Gate::WAITED);
        self.retry_after(ns);
    }

    pub(in crate::bdev) fn pop_waiting(&self) -> Option<Io> {
        let io = self.waiting.pop_front();
        self.waiting_has_changed();
        io
    }

    /// Removes the I/O with this id, and its children, from every queue of the channel.
    pub(in crate::bdev) fn remove_queued(&self, id: u64) -> Queue {
        let removed = Queue::default();
        for queue in [&self.waiting, &self.quiesced, &self.deferred, &self.starved] {
            while let Some(io) = queue.remove(id) {
                removed.push_back(io);
            }
        }
        self.waiting_has_changed();
        removed
    }

    /// Returns the id of a child of the I/O `id` that is at the module.
    pub(in crate::bdev) fn child_at_module(&self, id: u64) -> Option<u64> {
        let found = Cell::new(None);
        self.pool.any(|io| {
            let is_it = io.state.is_sent() && io.request().id != id && io.is_named(id);
            if is_it {
                found.set(Some(io.request().id));
            }
            is_it
        });
        found.get()
    }

    fn waiting_has_changed(&self) {
        if self.waiting.is_empty() {
            self.gate.clear(Gate::WAITED);
        }
    }

    /// Whether `io` is first in the queue, so that no other I/O goes before it.
    pub(in crate::bdev) fn is_first_waiting(&self, io: Io) -> bool {
        self.waiting.front() == Some(io)
    }

    /// The module has completed an I/O. It may have a resource for I/O that waits, and a channel
    /// without references may now be closed.
    pub(in crate::bdev) fn count_completion(&self) {
        self.outstanding.set(self.outstanding.get() - 1);
        if self.gate.has(Gate::WAITED | Gate::LEFT) {
            self.retry_soon();
        }
    }
}

// ---- what the thread does at the end of the round -------------------------------------------------

impl Channel {
    /// Makes the thread call the module's `flush` at the end of the round.
    pub(in crate::bdev) fn mark_dirty(&self) {
        if !self.dirty.get() {
            self.become_dirty();
        }
    }

    /// Adds the channel to its thread's list of channels to flush.
    #[inline(never)]
    fn become_dirty(&self) {
        self.dirty.set(true);
        thread::with_current(|thread| thread.bdevs.add_dirty(self));
    }

    /// Makes the thread check this channel at the end of the round, where it submits waiting I/O
    /// again.
    #[cold]
    #[inline(never)]
    pub(in crate::bdev) fn retry_soon(&self) {
        self.retry_at_ns.set(0);
        self.schedule();
    }

    /// As `retry_soon`, but not before `ns` nanoseconds have passed.
    pub(in crate::bdev) fn retry_after(&self, ns: u64) {
        self.retry_at_ns.set(clock::now() + ns);
        self.schedule();
    }

    /// Makes the thread check this channel at the end of the round.
    fn schedule(&self) {
        thread::with_current(|thread| self.schedule_on(&thread.bdevs));
    }

    pub(in crate::bdev) fn schedule_on(&self, channels: &ThreadChannels) {
        if !self.is_scheduled.replace(true) {
            channels.add_scheduled(self);
        }
    }

    /// When waiting I/O must be submitted to the module again, in nanoseconds.
    pub(in crate::bdev) fn deadline(&self) -> u64 {
        self.retry_at_ns.get()
    }
}
