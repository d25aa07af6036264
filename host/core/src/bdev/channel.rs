//! The io_channel of a bdev: the state that one lightweight thread keeps for it. All descriptors
//! that are used on the thread share the channel.

use super::device::{Bdev, Limits};
use super::io::{Io, Pool, Queue};
use super::quiesce::Range;
use super::reserve::Reserve;
use super::stats::Counters;
use super::waiters::Waiters;
use super::{Local, complete, dispatch, failed};
use crate::env::buf;
use crate::reactor::{clock, thread};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether the module's part of the channel exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The module creates its part of the channel; I/O waits.
    Creating,
    Ready,
    /// The module could not create its part; I/O completes with `failure`.
    Failed,
    /// The module destroys its part.
    Closing,
}

/// The maximum number of I/O that the clients of one channel may have at a time.
static MOST_IO: AtomicU32 = AtomicU32::new(65_535);

/// Sets how many I/O the clients of one channel may have at a time (`bdev_set_options`,
/// `bdev_io_pool_size`); at least 1. Parts and children of I/O do not count toward this limit.
pub fn set_most_io(most: u32) {
    MOST_IO.store(most.max(1), Ordering::Relaxed);
}

pub(super) fn most_io() -> u32 {
    MOST_IO.load(Ordering::Relaxed)
}

/// One thread's state for one bdev. Boxed and never moved.
pub(crate) struct Channel {
    // Fields that every I/O reads.
    pub(super) gate: Gate,
    /// An I/O was submitted to the module in this round, so the module's `flush` runs at the end of
    /// the round. Always true when the module has no `flush`: then there is nothing to call.
    dirty: Cell<bool>,
    /// The channel's thread, as returned by `thread::here`.
    home: usize,
    pub(super) outstanding: Cell<u32>,
    pub(super) submit: bay_submit_fn,
    pub(super) module: Cell<*mut c_void>,
    pub(super) bdev: Arc<Bdev>,
    pub(super) limits: Limits,
    /// I/O that arrived during a call of the module. It goes to the module when that call ends.
    pub(super) deferred: Queue,
    pub(super) pool: Pool,
    io_waiters: Waiters,
    pub(super) stats: Counters,
    /// The bases that can take every read and write within this filter's limits (see `pass`).
    bases: Bases,
    // Fields that only the slow paths read.
    /// I/O that waits for resources of the module or for the channel's creation or reset.
    waiting: Queue,
    /// I/O that waits for `unquiesce`.
    pub(super) quiesced: Queue,
    /// The quiesced ranges.
    pub(super) ranges: RefCell<Vec<Range>>,
    /// I/O that waits for one of the host's buffers.
    starved: Queue,
    pub(super) reserve: Reserve,
    /// The channel's entry in the queue for buffers; `waits_for_buffer` says whether it is queued.
    buffer_wait: UnsafeCell<bay_wait>,
    waits_for_buffer: Cell<bool>,
    /// When waiting I/O is submitted to the module again, in nanoseconds; 0 = now.
    retry_at_ns: Cell<u64>,
    wants_attention: Cell<bool>,
    pub(super) phase: Cell<Phase>,
    pub(super) failure: Cell<i32>,
    /// The number of I/Os of a failed module that cannot complete yet.
    pub(super) quarantined: Cell<u32>,
    pub(super) refs: Cell<u32>,
    /// The id of the channel's thread.
    pub(super) thread: u64,
    /// The handle by which the module names this channel. A thread never uses a handle twice.
    pub(super) handle: u64,
}

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

/// Why an I/O cannot go to the module at once. If no bit is set, it can.
#[derive(Default)]
pub(super) struct Gate(Cell<u8>);

impl Gate {
    /// The module can take I/O now.
    pub(super) const OPEN: u8 = 0;
    /// The module is being called.
    pub(super) const BUSY: u8 = 1;
    /// The module's part of the channel does not exist: it is still being created, or its creation
    /// failed.
    pub(super) const CREATION: u8 = 2;
    /// A reset is under way.
    pub(super) const RESET: u8 = 16;
    /// `unquiesce` has not released all ranges yet: I/O of `Channel::ranges` is held back.
    pub(super) const QUIESCE: u8 = 32;
    /// While one of these bits is set, all I/O waits.
    pub(super) const HELD: u8 = Self::CREATION | Self::RESET;
    /// I/O waits in the channel already, so new I/O queues behind it.
    pub(super) const WAITED: u8 = 4;
    /// No descriptor references the channel.
    pub(super) const LEFT: u8 = 8;

    pub(super) fn get(&self) -> u8 {
        self.0.get()
    }

    pub(super) fn has(&self, why: u8) -> bool {
        self.0.get() & why != 0
    }

    pub(super) fn set(&self, why: u8) {
        self.0.set(self.0.get() | why);
    }

    pub(super) fn clear(&self, why: u8) {
        self.0.set(self.0.get() & !why);
    }

    pub(super) fn put(&self, why: u8, on: bool) {
        if on { self.set(why) } else { self.clear(why) }
    }
}

impl Channel {
    /// A channel whose module part does not exist yet.
    pub(super) fn new(bdev: &Arc<Bdev>, submit: bay_submit_fn, handle: u64) -> Self {
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
            limits: bdev.limits(),
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
                cb: Some(buffer_came_free),
                arg: ptr::null_mut(),
                link: ptr::null_mut(),
                rsv: 0,
            }),
            waits_for_buffer: Cell::new(false),
            retry_at_ns: Cell::new(0),
            wants_attention: Cell::new(false),
            phase: Cell::new(Phase::Creating),
            failure: Cell::new(0),
            quarantined: Cell::new(0),
            refs: Cell::new(0),
            thread: thread::current_id(),
            handle,
        }
    }

    /// Whether the caller is on the channel's thread. Any OS thread.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        self.home == thread::here()
    }

    /// Returns an I/O that the client fills and submits. `None`: the limit is reached, and `wait`
    /// is queued.
    ///
    /// # Safety
    /// `wait` is null or stays valid until its callback or its abort.
    #[inline]
    pub(super) unsafe fn io_get(&self, wait: *mut bay_wait) -> Option<Io> {
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
    pub(super) fn io_abort(&self, wait: *mut bay_wait) -> bool {
        self.io_waiters.remove(wait)
    }

    /// Gives an I/O that nobody uses any more back to the pool.
    #[inline]
    pub(super) fn give_back(&self, io: Io) {
        self.pool.put(io);
        if !self.io_waiters.is_empty() {
            self.io_waiters.call_first();
        }
    }

    /// The module has created its part (`status` 0), or failed to.
    pub(crate) fn ready(&self, module: *mut c_void, status: i32) {
        if self.phase.get() != Phase::Creating {
            return;
        }
        if status == 0 {
            self.module.set(module);
            self.phase.set(Phase::Ready);
            self.gate.put(Gate::RESET, self.bdev.is_resetting());
            self.take_ranges();
            self.gate.clear(Gate::CREATION);
            dispatch::resume(self);
        } else {
            self.failure.set(status);
            self.phase.set(Phase::Failed);
            self.fail_waiting(status);
        }
        if self.gate.has(Gate::LEFT) {
            self.look_again(); // all references are gone
        }
    }

    /// The module has destroyed its part, after `chan_destroy` returned "pending".
    pub(crate) fn closed(&self) {
        if self.phase.get() == Phase::Closing {
            thread::with_current(|thread| thread.bdevs.free(self));
        }
    }

    /// The module has resources again: submits the I/O that waits for them.
    pub(crate) fn kick(&self) {
        dispatch::resume(self);
        if self.gate.has(Gate::WAITED) {
            self.look_again(); // the module was being called, or still has too few
        }
    }

    pub(super) fn fail_waiting(&self, status: i32) {
        while let Some(io) = self.pop_waiting().or_else(|| self.quiesced.pop_front()) {
            complete::finish(io, status);
        }
    }

    /// Copies the bdev's list of quiesced ranges.
    pub(super) fn take_ranges(&self) {
        self.ranges.borrow_mut().clone_from(&self.bdev.control().quiesced);
        self.gate.put(Gate::QUIESCE, !self.ranges.borrow().is_empty());
    }

    // ---- the base of a filter --------------------------------------------------------------------

    /// Returns the base channel of `handle` if `vouch` recorded it; otherwise `None`, and the
    /// caller makes the full checks.
    #[inline]
    pub(super) fn vouched_base(&self, handle: u64) -> Option<&Self> {
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
    pub(super) fn vouch(&self, handle: u64, base: &Self) {
        self.bases.place(handle).set((handle, base));
    }

    /// Forgets the base, because its handle is being closed.
    pub(super) fn forget_base(&self, handle: u64) {
        let place = self.bases.place(handle);
        if place.get().0 == handle {
            place.set((0, ptr::null()));
        }
    }

    // ---- waiting I/O -----------------------------------------------------------------------------

    pub(super) fn push_waiting(&self, io: Io) {
        self.waiting.push_back(io);
        self.gate.set(Gate::WAITED);
    }

    /// Puts the I/O at the front of the queue. The module is asked again after at most `ns`
    /// nanoseconds.
    pub(super) fn push_waiting_first(&self, io: Io, ns: u64) {
        self.waiting.push_front(io);
        self.gate.set(Gate::WAITED);
        self.look_again_after(ns);
    }

    pub(super) fn pop_waiting(&self) -> Option<Io> {
        let io = self.waiting.pop_front();
        self.waiting_has_changed();
        io
    }

    /// Removes the I/O with this id, and its children, from every queue of the channel.
    pub(super) fn remove_queued(&self, id: u64) -> Queue {
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
    pub(super) fn child_at_module(&self, id: u64) -> Option<u64> {
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
    pub(super) fn is_first_waiting(&self, io: Io) -> bool {
        self.waiting.front() == Some(io)
    }

    /// Adds the channel to its thread's list of channels to flush.
    #[inline(never)]
    fn become_dirty(&self) {
        self.dirty.set(true);
        thread::with_current(|thread| thread.bdevs.add_dirty(self));
    }

    /// The module has completed an I/O. It may have a resource for I/O that waits, and a channel
    /// without references may now be closed.
    pub(super) fn has_one_less(&self) {
        self.outstanding.set(self.outstanding.get() - 1);
        if self.gate.has(Gate::WAITED | Gate::LEFT) {
            self.look_again();
        }
    }

    /// Makes the thread check this channel at the end of the round, where it submits waiting I/O
    /// again.
    #[cold]
    #[inline(never)]
    pub(super) fn look_again(&self) {
        self.retry_at_ns.set(0);
        self.ask_for_attention();
    }

    /// As `look_again`, but not before `ns` nanoseconds have passed.
    pub(super) fn look_again_after(&self, ns: u64) {
        self.retry_at_ns.set(clock::now() + ns);
        self.ask_for_attention();
    }

    /// Queues an I/O for which no buffer of `len` bytes is free. It starts again when one is.
    pub(super) fn wait_for_buffer(&self, io: Io, len: usize) {
        self.starved.push_back(io);
        if self.waits_for_buffer.replace(true) {
            return;
        }
        let wait = self.buffer_wait.get();
        // SAFETY: the entry is not queued, so nobody else uses it.
        unsafe { (*wait).arg = ptr::from_ref(self).cast_mut().cast() };
        // SAFETY: the entry lives as long as the channel, and the channel is not freed while the
        // entry is queued.
        if let Some((buffer, _)) = unsafe { buf::get(len, wait) } {
            // A buffer became free in the meantime, so nothing is queued.
            buf::put(buffer, len);
            self.waits_for_buffer.set(false);
            self.look_again();
        }
    }

    /// Starts the I/O that waits for a buffer, until one of them has to wait again.
    fn feed_starved(&self) {
        let starved = self.starved.take();
        while let Some(io) = starved.pop_front() {
            super::submit(io);
            if !self.starved.is_empty() {
                break;
            }
        }
        while let Some(io) = starved.pop_front() {
            self.starved.push_back(io);
        }
        if self.gate.has(Gate::LEFT) {
            self.look_again();
        }
    }

    // ---- the end of a round ----------------------------------------------------------------------

    /// Makes the thread call the module's `flush` at the end of the round.
    pub(super) fn mark_dirty(&self) {
        if !self.dirty.get() {
            self.become_dirty();
        }
    }

    /// Calls the module's `flush`: the burst has ended. If a client's completion callback asks for
    /// this while the module is being called, the call happens at the end of the round instead.
    pub(super) fn flush(&self) {
        let Some(flush) = self.bdev.ops.flush else { return };
        if self.gate.has(Gate::BUSY) {
            return;
        }
        if self.dirty.replace(false) && self.phase.get() == Phase::Ready {
            self.gate.set(Gate::BUSY);
            // SAFETY: the module's channel is alive in phase Ready, and this is its thread.
            unsafe { flush(self.module.get()) };
            dispatch::leave(self);
        }
    }

    /// Makes the thread check this channel at the end of the round.
    pub(super) fn ask_for_attention(&self) {
        thread::with_current(|thread| self.ask_for_attention_in(&thread.bdevs));
    }

    pub(super) fn ask_for_attention_in(&self, local: &Local) {
        if !self.wants_attention.replace(true) {
            local.add_attention(self);
        }
    }

    /// Submits waiting I/O again if it is time. Returns whether the channel can be closed.
    pub(super) fn attend(&self, local: &Local) -> bool {
        self.wants_attention.set(false);
        if !self.starved.is_empty() {
            self.feed_starved(); // the channel's own buffer may be free now
        }
        if self.quarantined.get() != 0 {
            // Search rarely: the search is slow, a device may hold the I/O for a long time, and
            // this thread also serves other disks.
            if clock::now() >= self.retry_at_ns.get() || self.outstanding.get() == 0 {
                failed::end_requests(self);
            } else {
                self.ask_for_attention_in(local);
            }
        } else if clock::now() >= self.retry_at_ns.get() {
            dispatch::resume(self);
        }
        if self.gate.has(Gate::WAITED) && !self.gate.has(Gate::HELD) {
            self.ask_for_attention_in(local);
        }
        self.gate.has(Gate::LEFT)
            && !self.gate.has(Gate::BUSY | Gate::WAITED)
            && self.outstanding.get() == 0
            && self.starved.is_empty()
            && !self.waits_for_buffer.get()
            && matches!(self.phase.get(), Phase::Ready | Phase::Failed)
    }

    /// When waiting I/O must be submitted to the module again, in nanoseconds.
    pub(super) fn deadline(&self) -> u64 {
        self.retry_at_ns.get()
    }
}

/// The callback of `buffer_wait`: a buffer is free for the I/O in `starved`. Runs on the channel's
/// thread.
unsafe extern "C" fn buffer_came_free(arg: *mut c_void) {
    // SAFETY: `wait_for_buffer` passed the channel, which is not freed while it waits for a buffer.
    let channel = unsafe { &*arg.cast_const().cast::<Channel>() };
    channel.waits_for_buffer.set(false);
    channel.feed_starved();
}
