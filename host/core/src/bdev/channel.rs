//! The io_channel of a bdev: one lightweight thread's state for it, shared by all descriptors that
//! are used on that thread.

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

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The module makes its part; I/O waits.
    Creating,
    Ready,
    /// The module could not; I/O ends with `failure`.
    Failed,
    /// The module ends its part.
    Closing,
}

/// Most I/O of one channel.
static MOST_IO: AtomicU32 = AtomicU32::new(65_535);

/// Sets how many I/O of one channel its clients may have (`bdev_set_options`, `bdev_io_pool_size`):
/// at least 1. Parts and children of I/O are not bound by it.
pub fn set_most_io(most: u32) {
    MOST_IO.store(most.max(1), Ordering::Relaxed);
}

pub(super) fn most_io() -> u32 {
    MOST_IO.load(Ordering::Relaxed)
}

/// One thread's state for one bdev. Boxed and never moved.
pub(crate) struct Channel {
    // What every I/O needs.
    pub(super) gate: Gate,
    /// The module was submitted to and hears of it at the end of the round. Always, if it does not
    /// want to hear.
    dirty: Cell<bool>,
    /// Its thread, as `thread::here` says it.
    home: usize,
    pub(super) outstanding: Cell<u32>,
    pub(super) submit: bay_submit_fn,
    pub(super) module: Cell<*mut c_void>,
    pub(super) bdev: Arc<Bdev>,
    pub(super) limits: Limits,
    /// Submitted while the module is being called.
    pub(super) deferred: Queue,
    pub(super) pool: Pool,
    io_waiters: Waiters,
    pub(super) stats: Counters,
    /// The bases for which this filter vouches (`pass`).
    bases: Bases,
    // What the others need.
    /// Waits for the module's resources or for the channel.
    waiting: Queue,
    /// Waits for `unquiesce`.
    pub(super) quiesced: Queue,
    /// Ranges that are quiesced.
    pub(super) ranges: RefCell<Vec<Range>>,
    /// Waits for a buffer of the host.
    starved: Queue,
    pub(super) reserve: Reserve,
    /// The place of `starved` in the queue for buffers, and whether it is there.
    buffer_wait: UnsafeCell<bay_wait>,
    waits_for_buffer: Cell<bool>,
    /// When the module is asked again; 0 = now.
    retry_at_ns: Cell<u64>,
    wants_attention: Cell<bool>,
    pub(super) phase: Cell<Phase>,
    pub(super) failure: Cell<i32>,
    /// How many I/Os of a failed module cannot end yet.
    pub(super) quarantined: Cell<u32>,
    pub(super) refs: Cell<u32>,
    /// Id of its thread.
    pub(super) thread: u64,
    /// The module's name of it. Never used twice on a thread.
    pub(super) handle: u64,
}

/// A filter's handles of bases and the channels that they name; a channel is alive as long as it
/// stands here. A handle has one place, by its lower bits: bases that were opened one after the
/// other have different ones.
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

/// Why an I/O cannot go to the module at once. Nothing set: it can.
#[derive(Default)]
pub(super) struct Gate(Cell<u8>);

impl Gate {
    /// Nothing set.
    pub(super) const OPEN: u8 = 0;
    /// The module is being called.
    pub(super) const BUSY: u8 = 1;
    /// The module's part is not there: not yet, or it could not be made.
    pub(super) const CREATION: u8 = 2;
    /// A reset is under way.
    pub(super) const RESET: u8 = 16;
    /// Some of the I/O is held back, as `Channel::ranges` says.
    pub(super) const QUIESCE: u8 = 32;
    /// No I/O may pass at all.
    pub(super) const HELD: u8 = Self::CREATION | Self::RESET;
    /// Others wait.
    pub(super) const WAITED: u8 = 4;
    /// Nobody references the channel any more.
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
    /// A channel that the module has not made its part of.
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

    /// Whether this is its thread. Any OS thread.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        self.home == thread::here()
    }

    /// An I/O for a client, to fill and submit. `None`: the limit is reached; `wait` is queued.
    ///
    /// # Safety
    /// `wait` is null or stays valid until its callback or its abort.
    #[inline]
    pub(super) unsafe fn io_get(&self, wait: *mut bay_wait) -> Option<Io> {
        match self.pool.get_free() {
            Some(io) => Some(io),
            // SAFETY: by the contract.
            None => unsafe { self.io_get_new(wait) },
        }
    }

    /// # Safety
    /// As `io_get`.
    #[cold]
    #[inline(never)]
    unsafe fn io_get_new(&self, wait: *mut bay_wait) -> Option<Io> {
        if self.pool.made() >= most_io() {
            // SAFETY: by the contract.
            unsafe { self.io_waiters.push(wait) };
            return None;
        }
        Some(self.pool.get(self))
    }

    /// Takes `wait` out of the queue for I/O.
    pub(super) fn io_abort(&self, wait: *mut bay_wait) -> bool {
        self.io_waiters.remove(wait)
    }

    /// Nobody needs the I/O any more.
    #[inline]
    pub(super) fn give_back(&self, io: Io) {
        self.pool.put(io);
        if !self.io_waiters.is_empty() {
            self.io_waiters.call_first();
        }
    }

    /// The module's part was made, or not.
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
            self.look_again(); // nobody waited for it
        }
    }

    /// A pending end of the module's part.
    pub(crate) fn closed(&self) {
        if self.phase.get() == Phase::Closing {
            thread::with_current(|thread| thread.bdevs.free(self));
        }
    }

    /// The module has resources again.
    pub(crate) fn kick(&self) {
        dispatch::resume(self);
        if self.gate.has(Gate::WAITED) {
            self.look_again(); // it was being called, or has too few still
        }
    }

    pub(super) fn fail_waiting(&self, status: i32) {
        while let Some(io) = self.pop_waiting().or_else(|| self.quiesced.pop_front()) {
            complete::finish(io, status);
        }
    }

    /// Takes the bdev's quiesced ranges over.
    pub(super) fn take_ranges(&self) {
        self.ranges.borrow_mut().clone_from(&self.bdev.control().quiesced);
        self.gate.put(Gate::QUIESCE, !self.ranges.borrow().is_empty());
    }

    // ---- the base of a filter --------------------------------------------------------------------

    /// The channel of `handle`, if this filter vouches for it.
    #[inline]
    pub(super) fn vouched_base(&self, handle: u64) -> Option<&Self> {
        let (vouched, channel) = self.bases.place(handle).get();
        if vouched != handle {
            return None;
        }
        // SAFETY: null, or alive until `forget_base`, which comes before the handle is given up.
        unsafe { channel.as_ref() }
    }

    /// From now on this filter vouches for the base that it knows by `handle`.
    pub(super) fn vouch(&self, handle: u64, base: &Self) {
        self.bases.place(handle).set((handle, base));
    }

    /// The handle is given up.
    pub(super) fn forget_base(&self, handle: u64) {
        let place = self.bases.place(handle);
        if place.get().0 == handle {
            place.set((0, ptr::null()));
        }
    }

    // ---- what waits ------------------------------------------------------------------------------

    pub(super) fn push_waiting(&self, io: Io) {
        self.waiting.push_back(io);
        self.gate.set(Gate::WAITED);
    }

    /// The I/O keeps its place, and the module is asked again after `ns` at the latest.
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

    /// Takes the I/O of this id, and its children, out of whatever they wait in.
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

    /// The id of a child of the I/O `id` that the module has.
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

    /// Whether `io` waits before all others.
    pub(super) fn is_first_waiting(&self, io: Io) -> bool {
        self.waiting.front() == Some(io)
    }

    /// Tells the thread that the module was submitted to.
    #[inline(never)]
    fn become_dirty(&self) {
        self.dirty.set(true);
        thread::with_current(|thread| thread.bdevs.add_dirty(self));
    }

    /// The module has let go of an I/O: it may have a resource for others, and the channel may be
    /// free to end.
    pub(super) fn has_one_less(&self) {
        self.outstanding.set(self.outstanding.get() - 1);
        if self.gate.has(Gate::WAITED | Gate::LEFT) {
            self.look_again();
        }
    }

    /// The thread looks at this channel at the end of the round, and sends what waits.
    #[cold]
    #[inline(never)]
    pub(super) fn look_again(&self) {
        self.retry_at_ns.set(0);
        self.ask_for_attention();
    }

    /// As `look_again`, after `ns`.
    pub(super) fn look_again_after(&self, ns: u64) {
        self.retry_at_ns.set(clock::now() + ns);
        self.ask_for_attention();
    }

    /// No buffer of `len` bytes was free for the I/O: it starts again when one is.
    pub(super) fn wait_for_buffer(&self, io: Io, len: usize) {
        self.starved.push_back(io);
        if self.waits_for_buffer.replace(true) {
            return;
        }
        let wait = self.buffer_wait.get();
        // SAFETY: not queued, so nobody else uses it.
        unsafe { (*wait).arg = ptr::from_ref(self).cast_mut().cast() };
        // SAFETY: the waiter lives as long as the channel, which waits for it.
        if let Some((buffer, _)) = unsafe { buf::get(len, wait) } {
            // One came free meanwhile; nothing is queued.
            buf::put(buffer, len);
            self.waits_for_buffer.set(false);
            self.look_again();
        }
    }

    /// Starts what waits for a buffer, until one of them waits again.
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

    // ---- what the end of a round does ------------------------------------------------------------

    /// The module is told at the end of the round that the burst has ended.
    pub(super) fn mark_dirty(&self) {
        if !self.dirty.get() {
            self.become_dirty();
        }
    }

    /// Tells the module that the burst has ended. From inside of a call of the module, which a
    /// client's completion may ask for, it is told at the end of the round.
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

    /// The thread looks at this channel at the end of the round.
    pub(super) fn ask_for_attention(&self) {
        thread::with_current(|thread| self.ask_for_attention_in(&thread.bdevs));
    }

    pub(super) fn ask_for_attention_in(&self, local: &Local) {
        if !self.wants_attention.replace(true) {
            local.add_attention(self);
        }
    }

    /// Sends again what waits, if it is time. Whether the channel can end.
    pub(super) fn attend(&self, local: &Local) -> bool {
        self.wants_attention.set(false);
        if !self.starved.is_empty() {
            self.feed_starved(); // the channel's own buffer may be free
        }
        if self.quarantined.get() != 0 {
            // The search is slow. A device may hold the I/O for a long time, and this thread also serves other disks.
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

    /// When the module must be asked again.
    pub(super) fn deadline(&self) -> u64 {
        self.retry_at_ns.get()
    }
}

/// The turn of a channel's `starved`, on its thread.
unsafe extern "C" fn buffer_came_free(arg: *mut c_void) {
    // SAFETY: `buffer_wait` passed the channel, which waits for its I/O to end.
    let channel = unsafe { &*arg.cast_const().cast::<Channel>() };
    channel.waits_for_buffer.set(false);
    channel.feed_starved();
}
