//! The io_channel of a bdev: one lightweight thread's state for it, shared by all descriptors that
//! are used on that thread.

use super::device::{Bdev, Limits};
use super::io::{Flags, Io, Pool, Queue};
use super::quiesce::Range;
use super::stats::Counters;
use super::{Desc, device, dispatch};
use crate::reactor::{clock, thread};
use crate::services;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
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

pub(super) fn most_io() -> u32 {
    MOST_IO.load(Ordering::Relaxed)
}

/// What keeps the I/O of a channel from the module. Looked at once per I/O, all reasons together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Held(u8);

impl Held {
    /// The module's part is not there: not yet, or it could not be made.
    pub(super) const CREATION: Self = Self(1);
    pub(super) const RESET: Self = Self(2);
    /// Some of the I/O, as `Channel::ranges` says.
    pub(super) const QUIESCE: Self = Self(4);

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether no I/O may pass at all.
    pub(super) fn all(self) -> bool {
        self.0 & !Self::QUIESCE.0 != 0
    }

    fn with(self, reason: Self, on: bool) -> Self {
        Self(if on { self.0 | reason.0 } else { self.0 & !reason.0 })
    }
}

/// Most I/O of one channel.
static MOST_IO: AtomicU32 = AtomicU32::new(65_535);

/// Sets how many I/O of one channel its clients may have (`bdev_set_options`, `bdev_io_pool_size`):
/// at least 1. Parts and children of I/O are not bound by it.
pub fn set_most_io(most: u32) {
    MOST_IO.store(most.max(1), Ordering::Relaxed);
}

/// One thread's state for one bdev. Boxed and never moved.
pub(crate) struct Channel {
    pub(super) bdev: Arc<Bdev>,
    pub(super) limits: Limits,
    pub(super) submit: bay_submit_fn,
    pub(super) module: Cell<*mut c_void>,
    /// Why I/O waits, if it does.
    pub(super) held: Cell<Held>,
    /// The module's `submit` is on the stack.
    pub(super) busy: Cell<bool>,
    dirty: Cell<bool>,
    pub(super) outstanding: Cell<u32>,
    /// Submitted while `busy`.
    pub(super) deferred: Queue,
    /// Waits for the module's resources or for the channel.
    pub(super) waiting: Queue,
    /// Waits for `unquiesce`.
    pub(super) quiesced: Queue,
    /// Ranges that are quiesced.
    pub(super) ranges: RefCell<Vec<Range>>,
    /// Waits for a buffer of the host.
    pub(super) starved: Queue,
    pub(super) pool: Pool,
    pub(super) stats: Counters,
    pub(super) phase: Cell<Phase>,
    pub(super) failure: Cell<i32>,
    pub(super) retry_at_ns: Cell<u64>,
    wants_attention: Cell<bool>,
    refs: Cell<u32>,
    handle: u64,
    io_waiters: RefCell<VecDeque<NonNull<bay_wait>>>,
}

struct Reference {
    number: u32,
    channel: *const Channel,
    writable: bool,
    desc: Arc<Desc>,
}

/// A lightweight thread's channels.
#[derive(Default)]
pub(crate) struct Local {
    channels: RefCell<Vec<*mut Channel>>,
    references: RefCell<Vec<Option<Reference>>>,
    next_number: Cell<u32>,
    dirty: RefCell<Vec<*const Channel>>,
    attention: RefCell<Vec<*const Channel>>,
    /// The list that `end_round` walks; its memory is kept.
    walked: RefCell<Vec<*const Channel>>,
    next_handle: Cell<u64>,
}

/// Gets the current thread's channel; the handle is good on this thread only.
///
/// # Errors
/// `EPERM` outside of a lightweight thread, `ENODEV` for a bdev that is gone, what the module says.
pub fn get(desc: &Arc<Desc>) -> Result<u64> {
    thread::with_current(|thread| thread.bdevs.get(desc))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

/// Gives a channel back; its I/O must have ended.
///
/// # Errors
/// `EINVAL` for a handle that is not one of this thread.
pub fn put(handle: u64) -> Result<()> {
    thread::with_current(|thread| thread.bdevs.put(handle))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

/// An I/O of a channel, to fill and submit. `None`: the limit is reached or the handle is not good;
/// `wait`, if given, is queued in the first case.
///
/// # Safety
/// `wait` is null or stays valid until its callback.
pub(crate) unsafe fn io_get(handle: u64, wait: *mut bay_wait) -> Option<Io> {
    thread::with_current(|thread| {
        let (channel, writable) = thread.bdevs.resolve(handle)?;
        if !channel.pool.has_free() && channel.pool.made() >= most_io() {
            channel.io_waiters.borrow_mut().extend(NonNull::new(wait));
            return None;
        }
        let io = channel.pool.get(channel);
        io.flags.set(Flags { writable, ..Flags::default() });
        Some(io)
    })?
}

/// A child of `parent` on another channel: all fields copied, its own identity. Not bound by the limit.
pub(crate) fn io_derive(handle: u64, parent: Io) -> Option<Io> {
    thread::with_current(|thread| {
        let (channel, writable) = thread.bdevs.resolve(handle)?;
        let io = channel.pool.get(channel);
        io.flags.set(Flags { writable, ..Flags::default() });
        let from = *parent.request();
        io.change(|to| {
            let own = *to;
            *to = bay_io {
                done: own.done,
                drv_ctx: own.drv_ctx,
                link: own.link,
                id: own.id,
                detail: 0,
                detail_kind: BAY_DETAIL_NONE,
                ..from
            };
        });
        Some(io)
    })?
}

/// Ends a burst.
pub(crate) fn flush(handle: u64) {
    thread::with_current(|thread| {
        if let Some((channel, _)) = thread.bdevs.resolve(handle) {
            channel.flush();
        }
    });
}

/// Runs `visit` for the bdev's channel on every thread that has one, then `done` here.
pub(super) fn on_channels<T: Send + 'static>(
    bdev: &Arc<Bdev>,
    visit: impl Fn(&Channel) -> T + Send + Sync + 'static,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    let bdev = Arc::clone(bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.of(&bdev).map(&visit)).flatten(),
        move |results| done(results.into_iter().flatten().collect()),
    );
}

/// The channel that a module's handle names, on the current thread.
pub(crate) fn with_module_handle<T>(handle: u64, f: impl FnOnce(&Channel) -> T) -> Option<T> {
    let channel = thread::with_current(|thread| {
        let channels = thread.bdevs.channels.borrow();
        channels.iter().copied().find(|&channel| {
            // SAFETY: channels in the list are alive.
            unsafe { (*channel).handle == handle }
        })
    })??;
    // SAFETY: as above; this thread frees channels only at the end of a round.
    Some(f(unsafe { &*channel }))
}

impl Local {
    fn get(&self, desc: &Arc<Desc>) -> Result<u64> {
        if desc.bdev.is_removed() {
            return Err(Error::no_device());
        }
        let channel = match self.find(&desc.bdev) {
            Some(channel) => channel,
            None => self.create(&desc.bdev)?,
        };
        // SAFETY: found or made just now; alive while it is in the list.
        let refs = unsafe { &(*channel).refs };
        refs.set(refs.get() + 1);
        desc.channels.fetch_add(1, Ordering::AcqRel);
        let number = self.next_number.get().wrapping_add(1).max(1);
        self.next_number.set(number);
        let reference =
            Reference { number, channel, writable: desc.writable, desc: Arc::clone(desc) };
        let mut references = self.references.borrow_mut();
        let index = references.iter().position(Option::is_none).unwrap_or(references.len());
        if index == references.len() {
            references.push(None);
        }
        if let Some(place) = references.get_mut(index) {
            *place = Some(reference);
        }
        Ok((u64::from(number) << 32) | index as u64)
    }

    fn find(&self, bdev: &Arc<Bdev>) -> Option<*mut Channel> {
        self.channels.borrow().iter().copied().find(|&channel| {
            // SAFETY: channels in the list are alive.
            let channel = unsafe { &*channel };
            Arc::ptr_eq(&channel.bdev, bdev) && channel.phase.get() != Phase::Closing
        })
    }

    /// The channel of a bdev on this thread.
    pub(super) fn of(&self, bdev: &Arc<Bdev>) -> Option<&Channel> {
        // SAFETY: channels in the list are alive, and freed only at the end of a round.
        self.find(bdev).map(|channel| unsafe { &*channel })
    }

    fn create(&self, bdev: &Arc<Bdev>) -> Result<*mut Channel> {
        let (Some(submit), Some(chan_create)) = (bdev.ops.submit, bdev.ops.chan_create) else {
            return Err(Error::new(libc::EINVAL, "the module has no submit or chan_create"));
        };
        let handle = self.next_handle.get() + 1;
        self.next_handle.set(handle);
        let channel = Box::into_raw(Box::new(Channel {
            bdev: Arc::clone(bdev),
            limits: bdev.limits(),
            submit,
            module: Cell::new(ptr::null_mut()),
            held: Cell::new(Held::CREATION),
            busy: Cell::new(false),
            dirty: Cell::new(false),
            outstanding: Cell::new(0),
            deferred: Queue::default(),
            waiting: Queue::default(),
            quiesced: Queue::default(),
            ranges: RefCell::default(),
            starved: Queue::default(),
            pool: Pool::new(bdev.record.drv_ctx_size),
            stats: Counters::default(),
            phase: Cell::new(Phase::Creating),
            failure: Cell::new(0),
            retry_at_ns: Cell::new(0),
            wants_attention: Cell::new(false),
            refs: Cell::new(0),
            handle,
            io_waiters: RefCell::default(),
        }));
        self.channels.borrow_mut().push(channel);
        bdev.channels.fetch_add(1, Ordering::AcqRel);
        let args = bay_chan_args {
            size: services::size::<bay_chan_args>(),
            numa: bdev.record.numa,
            thread: thread::current_id(),
            host_chan: handle,
            handover: ptr::null(),
        };
        let mut module = ptr::null_mut();
        // SAFETY: the bdev's context belongs to its operations; both outlive the channel.
        let status = unsafe { chan_create(bdev.ctx, &raw const args, &raw mut module) };
        // SAFETY: in the list, so alive.
        let made = unsafe { &*channel };
        match status {
            1 => {} // chan_ready follows
            0 => made.ready(module, 0),
            errno => {
                self.channels.borrow_mut().retain(|&other| other != channel);
                // SAFETY: out of the list, no reference was given out.
                drop(unsafe { Box::from_raw(channel) });
                bdev.channels.fetch_sub(1, Ordering::AcqRel);
                return Err(Error::new(
                    -errno,
                    format!("bdev {}: its module could not make a channel", bdev.name),
                ));
            }
        }
        Ok(channel)
    }

    fn resolve(&self, handle: u64) -> Option<(&Channel, bool)> {
        let references = self.references.borrow();
        let reference = references.get(index_of(handle))?.as_ref()?;
        if u64::from(reference.number) != handle >> 32 {
            return None;
        }
        // SAFETY: a referenced channel is alive.
        Some((unsafe { &*reference.channel }, reference.writable))
    }

    fn put(&self, handle: u64) -> Result<()> {
        if self.resolve(handle).is_none() {
            return Err(Error::new(libc::EINVAL, "no channel of this thread has this handle"));
        }
        let reference = {
            let mut references = self.references.borrow_mut();
            references.get_mut(index_of(handle)).and_then(Option::take)
        };
        let Some(reference) = reference else { return Ok(()) };
        // SAFETY: it was referenced until now and is freed at the end of a round at the earliest.
        let channel = unsafe { &*reference.channel };
        channel.refs.set(channel.refs.get() - 1);
        if channel.refs.get() == 0 {
            channel.ask_for_attention_in(self);
        }
        reference.desc.channels.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ends bursts, sends again what waits, frees what nobody references.
    pub(crate) fn end_round(&self) {
        if !self.dirty.borrow().is_empty() {
            self.walk(&self.dirty, Channel::flush);
        }
        if !self.attention.borrow().is_empty() {
            self.walk(&self.attention, |channel| {
                channel.wants_attention.set(false);
                self.attend(channel);
            });
        }
    }

    /// Empties the list and visits what was in it. What the visits add is for the next round. Both
    /// lists keep their memory, so that a round allocates nothing.
    fn walk(&self, list: &RefCell<Vec<*const Channel>>, visit: impl Fn(&Channel)) {
        let mut walked = self.walked.take();
        std::mem::swap(&mut walked, &mut list.borrow_mut());
        for channel in walked.drain(..) {
            // SAFETY: alive: during a walk a channel is freed by its own visit at most, and it is in
            // a list once.
            visit(unsafe { &*channel });
        }
        self.walked.replace(walked);
    }

    fn attend(&self, channel: &Channel) {
        for _ in 0..64 {
            let Some(io) = channel.starved.pop_front() else { break };
            super::submit(io);
        }
        if !channel.waiting.is_empty()
            && channel.outstanding.get() == 0
            && clock::now() >= channel.retry_at_ns.get()
        {
            dispatch::resume(channel);
        }
        let unused = channel.refs.get() == 0 && channel.outstanding.get() == 0;
        if unused && matches!(channel.phase.get(), Phase::Ready | Phase::Failed) {
            return self.close(channel);
        }
        // With something outstanding, its completion sends what waits.
        let waits = !channel.waiting.is_empty()
            && !channel.held.get().all()
            && channel.outstanding.get() == 0;
        let leaving = channel.refs.get() == 0
            && channel.outstanding.get() > 0
            && channel.phase.get() != Phase::Closing;
        if waits || leaving || !channel.starved.is_empty() {
            channel.ask_for_attention_in(self);
        }
    }

    fn close(&self, channel: &Channel) {
        let was = channel.phase.replace(Phase::Closing);
        let pending = was == Phase::Ready
            && channel.bdev.ops.chan_destroy.is_some_and(|destroy| {
                // SAFETY: the module's channel is alive, has no I/O, and is not used again.
                unsafe { destroy(channel.bdev.ctx, channel.module.get()) == 1 }
            });
        if !pending {
            self.free(channel);
        }
    }

    /// The module's part is gone.
    fn free(&self, channel: &Channel) {
        let channel: *const Channel = channel;
        self.channels.borrow_mut().retain(|&other| !ptr::eq(other, channel));
        self.dirty.borrow_mut().retain(|&other| other != channel);
        self.attention.borrow_mut().retain(|&other| other != channel);
        // SAFETY: it was boxed by `create`, is in no list any more and has no I/O.
        let channel = unsafe { Box::from_raw(channel.cast_mut()) };
        channel.bdev.retired.add(&channel.stats);
        channel.bdev.channels.fetch_sub(1, Ordering::AcqRel);
        device::channel_is_gone(&channel.bdev);
    }

    /// Whether the thread must not sleep.
    pub(crate) fn has_work(&self) -> bool {
        !self.attention.borrow().is_empty() || !self.dirty.borrow().is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.channels.borrow().is_empty()
    }

    pub(crate) fn channel_names(&self) -> Vec<(String, u64)> {
        let channels = self.channels.borrow();
        channels
            .iter()
            .map(|&channel| {
                // SAFETY: channels in the list are alive.
                let channel = unsafe { &*channel };
                (channel.bdev.name.clone(), channel.refs.get().into())
            })
            .collect()
    }
}

impl Channel {
    /// The module's part was made, or not.
    pub(crate) fn ready(&self, module: *mut c_void, status: i32) {
        if self.phase.get() != Phase::Creating {
            return;
        }
        if status == 0 {
            self.module.set(module);
            self.phase.set(Phase::Ready);
            self.hold(Held::RESET, self.bdev.is_resetting());
            self.take_ranges();
            self.hold(Held::CREATION, false);
            dispatch::resume(self);
        } else {
            self.failure.set(status);
            self.phase.set(Phase::Failed);
            self.fail_waiting(status);
        }
        if self.refs.get() == 0 {
            self.ask_for_attention(); // given back before it was there
        }
    }

    /// Holds I/O for a reason, or no longer for it.
    pub(super) fn hold(&self, reason: Held, on: bool) {
        self.held.set(self.held.get().with(reason, on));
    }

    /// Takes the bdev's quiesced ranges over.
    pub(super) fn take_ranges(&self) {
        self.ranges.borrow_mut().clone_from(&self.bdev.control().quiesced);
        self.hold(Held::QUIESCE, !self.ranges.borrow().is_empty());
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
    }

    pub(super) fn fail_waiting(&self, status: i32) {
        for queue in [&self.waiting, &self.quiesced] {
            while let Some(io) = queue.pop_front() {
                super::complete::finish(io, status);
            }
        }
    }

    /// The module is told at the end of the round that the burst has ended.
    pub(super) fn mark_dirty(&self) {
        if self.bdev.ops.flush.is_some() && !self.dirty.replace(true) {
            thread::with_current(|thread| thread.bdevs.dirty.borrow_mut().push(self));
        }
    }

    fn flush(&self) {
        if self.dirty.replace(false)
            && self.phase.get() == Phase::Ready
            && let Some(flush) = self.bdev.ops.flush
        {
            // SAFETY: the module's channel is alive in phase Ready, and this is its thread.
            unsafe { flush(self.module.get()) };
        }
    }

    /// The I/O starts again when buffers may have come free.
    pub(super) fn wait_for_buffer(&self, io: Io) {
        self.starved.push_back(io);
        self.ask_for_attention();
    }

    /// The thread looks at this channel at the end of every round until nothing is left to do.
    pub(super) fn ask_for_attention(&self) {
        thread::with_current(|thread| self.ask_for_attention_in(&thread.bdevs));
    }

    fn ask_for_attention_in(&self, local: &Local) {
        if !self.wants_attention.replace(true) {
            local.attention.borrow_mut().push(self);
        }
    }

    /// An I/O has ended.
    pub(super) fn give_back(&self, io: Io) {
        self.pool.put(io);
        if !self.io_waiters.borrow().is_empty() {
            let waiter = self.io_waiters.borrow_mut().pop_front();
            if let Some(waiter) = waiter {
                // SAFETY: the waiter left the queue; its memory was kept for this call.
                let bay_wait { cb, arg, .. } = unsafe { *waiter.as_ptr() };
                if let Some(cb) = cb {
                    // SAFETY: callback and argument belong together.
                    unsafe { cb(arg) };
                }
            }
        }
    }
}

/// Gives back an I/O that was not submitted.
pub(crate) fn io_put(io: Io) {
    io.channel().give_back(io);
}

/// Place of a handle in the table of references.
fn index_of(handle: u64) -> usize {
    usize::try_from(handle & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}
