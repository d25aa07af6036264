//! The functions of a bdev that the bus calls.
//!
//! The author's code gets `&mut` to a channel's state, so no two calls may use the state at once. Two rules
//! ensure this:
//!
//! - For its own calls, the host ensures it: it never calls `submit`, `flush` or `chan_destroy` of a channel while
//!   another of the three runs (`bay_bdev_ops`). When a client submits from inside a completion, the host passes
//!   that I/O on after `submit` has returned. So `submit` sets no mark; debug builds check that the host obeys.
//! - For code that runs by itself, such as a poller, the *busy section* ensures it. A completion in the section
//!   calls a client, and the host passes the client's new I/O on at once. That I/O waits here until the section ends.
#![expect(unsafe_code, reason = "the host passes pointers to the bdev and its channels")]

use super::home::{self, ChannelHandle, Home};
use super::io::{BdevIo, IoQueue, IoResult};
use super::lifecycle::{Closing, Ending, Opening};
use super::module::Bdev;
use super::size_of_table;
use crate::entry::{enter, guard, is_poisoned};
use crate::error::{Result, Status, errno};
use crate::host::Sink;
use crate::notify::Config;
use crate::poller::{Poll, Poller};
use drivebay_plugin_api::{bay_bdev_ops, bay_chan_args, bay_io, bay_sink};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// poll(2): there is data to read.
const POLLIN: u32 = 1;

/// A registered bdev. The host's `ctx` points to it.
#[derive(Debug)]
pub(super) struct OnBus<B> {
    pub(super) bdev: B,
    /// The method that creates the bdev again; `params` are its parameters.
    pub(super) method: String,
    pub(super) params: Mutex<serde_json::Value>,
    /// The host's handle; 0 until the bdev is registered.
    pub(super) id: AtomicU64,
}

impl<B> OnBus<B> {
    pub(super) fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }
}

pub(super) struct Ops<B>(B);

impl<B: Bdev> Ops<B> {
    pub(super) const TABLE: &'static bay_bdev_ops = &bay_bdev_ops {
        size: size_of_table::<bay_bdev_ops>(),
        flags: 0,
        submit: Some(submit::<B>),
        flush: if B::BURSTS { Some(flush::<B>) } else { None },
        chan_create: Some(chan_create::<B>),
        chan_destroy: Some(chan_destroy::<B>),
        destruct: Some(destruct::<B>),
        dump_info: Some(dump_info::<B>),
        write_config: Some(write_config::<B>),
        dump_stats: Some(dump_stats::<B>),
        reset_stats: Some(reset_stats::<B>),
        space: Some(space::<B>),
    };
}

/// One thread's channel of a bdev.
#[repr(C)]
pub(super) struct ModuleChannel<B: Bdev> {
    /// Every I/O points to it. It comes first, so its address is the channel's.
    home: Home,
    on_bus: NonNull<OnBus<B>>,
    /// Whether the author's code uses `state` outside of `submit`.
    is_busy: Cell<bool>,
    /// Whether `submit` is running.
    #[cfg(debug_assertions)]
    is_entered: Cell<bool>,
    /// Whether calls were deferred because the channel was busy.
    has_more: Cell<bool>,
    state: UnsafeCell<B::Channel>,
    queue: RefCell<IoQueue>,
    /// Parents whose children completed while the channel was busy. Their `joined` runs when the busy section ends.
    joined: RefCell<VecDeque<(BdevIo, IoResult)>>,
    flush_wanted: Cell<bool>,
    close_wanted: Cell<bool>,
    host_chan: u64,
    poller: Cell<Option<Poller>>,
}

impl<B: Bdev> ModuleChannel<B> {
    /// Runs `body` on the state in a busy section, then the calls deferred meanwhile. Returns `otherwise` when the
    /// channel is busy already or the library is poisoned.
    ///
    /// # Safety
    /// `this` is a live channel, this is its thread, and its `submit` is not running. It may be freed on return.
    #[inline]
    unsafe fn try_run<R>(
        this: NonNull<Self>,
        otherwise: R,
        body: impl FnOnce(&B, &mut B::Channel) -> R,
    ) -> R {
        // SAFETY: the caller's promise.
        let channel = unsafe { this.as_ref() };
        if channel.is_busy.get() || is_poisoned() {
            return otherwise;
        }
        channel.is_busy.set(true);
        // SAFETY: the bdev outlives its channels.
        let bdev = unsafe { &channel.on_bus.as_ref().bdev };
        // SAFETY: busy is set, so this is the only reference.
        let state = unsafe { &mut *channel.state.get() };
        let result = guard(|| body(bdev, state));
        if channel.has_more.get() {
            // SAFETY: `state` is not used again.
            unsafe { Self::run_more(this) };
        } else {
            channel.is_busy.set(false);
        }
        result.unwrap_or(otherwise)
    }

    /// Runs the calls that were deferred while the channel was busy, and ends the busy section.
    ///
    /// # Safety
    /// As `try_run`, with the channel busy and no reference to its state.
    #[inline(never)]
    unsafe fn run_more(this: NonNull<Self>) {
        // SAFETY: the caller's promise.
        let channel = unsafe { this.as_ref() };
        // SAFETY: the bdev outlives its channels.
        let bdev = unsafe { &channel.on_bus.as_ref().bdev };
        channel.has_more.set(false);
        loop {
            let joined = channel.joined.borrow_mut().pop_front();
            if let Some((io, result)) = joined {
                if is_poisoned() {
                    io.complete(Status::IO_ERROR);
                } else {
                    // SAFETY: busy is set, so this is the only reference.
                    let state = unsafe { &mut *channel.state.get() };
                    guard(|| bdev.joined(state, io, result));
                }
                continue;
            }
            let next = channel.queue.borrow_mut().pop();
            if let Some(io) = next {
                if is_poisoned() {
                    io.complete(Status::IO_ERROR);
                } else {
                    // SAFETY: busy is set, so this is the only reference.
                    let state = unsafe { &mut *channel.state.get() };
                    guard(|| bdev.submit(state, io));
                }
            } else if channel.flush_wanted.replace(false) {
                // SAFETY: as above.
                let state = unsafe { &mut *channel.state.get() };
                enter((), || bdev.flush(state));
            } else {
                break;
            }
        }
        channel.has_more.set(false);
        channel.is_busy.set(false);
        if channel.close_wanted.get() {
            let closing = Closing::later(channel.host_chan);
            // SAFETY: the channel is closing and not busy, so there is no reference to it.
            unsafe { free::<B>(this, closing) };
        }
    }
}

/// # Safety
/// `channel` is a live channel without references.
unsafe fn free<B: Bdev>(channel: NonNull<ModuleChannel<B>>, closing: Closing) {
    // SAFETY: `make_channel` made it with `Box::leak`.
    let channel = unsafe { Box::from_raw(channel.as_ptr()) };
    drop(channel.poller.take());
    if is_poisoned() {
        // Do not run the author's code, not even `drop`.
        let _ = Box::into_raw(channel);
        return;
    }
    let ModuleChannel { on_bus, state, .. } = *channel;
    // SAFETY: the bdev outlives its channels; the host waits for this one until `closing` is dropped.
    let bdev = unsafe { &on_bus.as_ref().bdev };
    guard(move || bdev.close_channel(state.into_inner(), closing));
}

unsafe extern "C" fn submit<B: Bdev>(chan: *mut c_void, io: *mut bay_io) {
    debug_assert!(!chan.is_null() && !io.is_null());
    // SAFETY: the host passes the channel that `chan_create` made, and a request.
    let this = unsafe { NonNull::new_unchecked(chan.cast::<ModuleChannel<B>>()) };
    // SAFETY: as above.
    let io = unsafe { NonNull::new_unchecked(io) };
    // SAFETY: the channel is live.
    let channel = unsafe { this.as_ref() };
    // Only these types have code that runs on a channel outside of `submit` and completes I/O there.
    let has_busy_sections = const { B::POLLS || B::BURSTS || B::JOINS };
    if is_poisoned() || has_busy_sections && channel.is_busy.get() {
        return queue_or_fail(channel, io);
    }
    if const { home::drv_ctx_len::<B>() > 0 } {
        // SAFETY: the I/O was just submitted to this module, which has requested a context.
        unsafe { home::begin(io) };
    }
    // SAFETY: the I/O was just submitted to this channel.
    let io = unsafe { BdevIo::new(io, this.cast()) };
    if const { B::JOINS } {
        // A child may complete inside this call; its parent then waits until the call has returned.
        // SAFETY: the channel is live and not busy, and this is its thread.
        return unsafe {
            ModuleChannel::try_run(this, (), |bdev: &B, state| bdev.submit(state, io))
        };
    }
    #[cfg(debug_assertions)]
    let _entered = Entered::new(&channel.is_entered);
    // SAFETY: the bdev outlives its channels and their calls.
    let bdev = unsafe { &channel.on_bus.as_ref().bdev };
    // SAFETY: the channel is not busy, and the host makes one call to a channel at a time: this is the only reference.
    let state = unsafe { &mut *channel.state.get() };
    guard(|| bdev.submit(state, io));
}

/// Handles an I/O that the module cannot take now, because the library is poisoned or the channel is busy.
///
/// `extern "C"` because it does not unwind: so `submit` ends with a jump to it and needs no stack frame.
#[cold]
#[inline(never)]
extern "C" fn queue_or_fail<B: Bdev>(channel: &ModuleChannel<B>, io: NonNull<bay_io>) {
    if const { home::drv_ctx_len::<B>() > 0 } {
        // SAFETY: `submit` has just received it.
        unsafe { home::begin(io) };
    }
    // SAFETY: `submit` has just received it.
    let io = unsafe { BdevIo::new(io, NonNull::from(&channel.home)) };
    if is_poisoned() {
        return io.complete(Status::IO_ERROR);
    }
    channel.has_more.set(true);
    channel.queue.borrow_mut().push(io);
}

/// Handles a parent whose children have completed, inside of the channel's own code or elsewhere on its thread.
///
/// # Safety
/// `home` belongs to a live channel of a `B`, and this is its thread. The I/O was submitted to that channel and has
/// no children in flight.
unsafe fn join<B: Bdev>(home: NonNull<Home>, io: BdevIo, result: IoResult) {
    let this = home.cast::<ModuleChannel<B>>();
    // SAFETY: the caller's promise.
    let channel = unsafe { this.as_ref() };
    if is_poisoned() {
        io.complete(Status::IO_ERROR);
    } else if channel.is_busy.get() {
        channel.has_more.set(true);
        channel.joined.borrow_mut().push_back((io, result));
    } else {
        // SAFETY: the caller's promise; neither the channel nor the `submit` of a type with `joined` is busy.
        unsafe {
            ModuleChannel::try_run(this, (), |bdev: &B, state| bdev.joined(state, io, result))
        };
    }
}

/// `submit` is running until this value is dropped.
#[cfg(debug_assertions)]
struct Entered<'a>(&'a Cell<bool>);

#[cfg(debug_assertions)]
impl<'a> Entered<'a> {
    fn new(channel: &'a Cell<bool>) -> Self {
        assert!(!channel.replace(true), "the host called submit of a channel in its submit");
        Self(channel)
    }
}

#[cfg(debug_assertions)]
impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

unsafe extern "C" fn flush<B: Bdev>(chan: *mut c_void) {
    let Some(this) = NonNull::new(chan.cast::<ModuleChannel<B>>()) else { return };
    // SAFETY: the host passes the channel that `chan_create` made.
    let channel = unsafe { this.as_ref() };
    if channel.is_busy.get() {
        channel.has_more.set(true);
        channel.flush_wanted.set(true);
    } else {
        // SAFETY: the channel is live, and this is its thread.
        unsafe { ModuleChannel::try_run(this, (), |bdev: &B, state| bdev.flush(state)) };
    }
}

unsafe extern "C" fn chan_create<B: Bdev>(
    bdev: *mut c_void,
    args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    let Some(on_bus) = NonNull::new(bdev.cast::<OnBus<B>>()) else { return -errno::EINVAL };
    // SAFETY: even the oldest minor has the field.
    let host_chan = unsafe { (*args).host_chan };
    enter(-errno::EFAULT, || {
        // SAFETY: the bdev outlives its channels.
        match unsafe { Opening::ask(on_bus, host_chan) } {
            Some(Ok(channel)) => {
                // SAFETY: `chan` is the host's place for the result.
                unsafe { chan.write(channel.as_ptr().cast()) };
                0
            }
            Some(Err(error)) => {
                tracing::error!("{}: cannot create a channel: {error}", B::PRODUCT);
                error.status()
            }
            None => PENDING,
        }
    })
}

/// What a function of the ABI returns when it finishes later.
const PENDING: i32 = 1;

/// # Safety
/// `on_bus` is a live bdev that outlives the channel.
pub(super) unsafe fn make_channel<B: Bdev>(
    on_bus: NonNull<OnBus<B>>,
    host_chan: u64,
    mut state: B::Channel,
) -> Result<NonNull<ModuleChannel<B>>> {
    // SAFETY: the caller's promise.
    let bdev = unsafe { &on_bus.as_ref().bdev };
    bdev.opened(&mut state, ChannelHandle::new(host_chan));
    let wake_fd = bdev.wake_fd(&state);
    let channel = Box::new(ModuleChannel {
        home: Home::of::<B>(join::<B>),
        on_bus,
        is_busy: Cell::new(false),
        #[cfg(debug_assertions)]
        is_entered: Cell::new(false),
        has_more: Cell::new(false),
        state: UnsafeCell::new(state),
        queue: RefCell::new(IoQueue::new()),
        joined: RefCell::default(),
        flush_wanted: Cell::new(false),
        close_wanted: Cell::new(false),
        host_chan,
        poller: Cell::new(None),
    });
    let this = NonNull::from(Box::leak(channel));
    if B::POLLS {
        let poller = Poller::register(B::PRODUCT, 0, ChannelPoll(this)).and_then(|poller| {
            wake_fd.map_or(Ok(()), |fd| poller.wake_fd(fd, POLLIN))?;
            Ok(poller)
        });
        match poller {
            // SAFETY: the channel was just made.
            Ok(poller) => unsafe { this.as_ref() }.poller.set(Some(poller)),
            Err(error) => {
                // SAFETY: the channel was just leaked, and its poller is gone.
                drop(unsafe { Box::from_raw(this.as_ptr()) });
                return Err(error);
            }
        }
    }
    Ok(this)
}

unsafe extern "C" fn chan_destroy<B: Bdev>(_bdev: *mut c_void, chan: *mut c_void) -> i32 {
    let Some(this) = NonNull::new(chan.cast::<ModuleChannel<B>>()) else { return 0 };
    // SAFETY: the host passes the channel that `chan_create` made.
    let channel = unsafe { this.as_ref() };
    if channel.is_busy.get() {
        // This call comes from inside the author's code. When that returns, `run_more` calls `chan_closed`.
        channel.has_more.set(true);
        channel.close_wanted.set(true);
        return 1;
    }
    let is_pending = Closing::in_call(channel.host_chan, |closing| {
        // SAFETY: this is the last call of the host for this channel, and the channel is not busy.
        unsafe { free::<B>(this, closing) };
    });
    if is_pending { PENDING } else { 0 }
}

unsafe extern "C" fn destruct<B: Bdev>(bdev: *mut c_void) -> i32 {
    // SAFETY: the reference count that `register` gave the host; all channels are gone.
    let on_bus = unsafe { Arc::from_raw(bdev.cast_const().cast::<OnBus<B>>()) };
    let is_pending = enter(false, move || Ending::in_call(on_bus));
    if is_pending { PENDING } else { 0 }
}

unsafe extern "C" fn dump_info<B: Bdev>(bdev: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is live.
    let on_bus = unsafe { &*bdev.cast_const().cast::<OnBus<B>>() };
    // SAFETY: the sink is valid for the call.
    if let Some(sink) = unsafe { Sink::new(sink) } {
        enter((), || sink.write_json(&on_bus.bdev.driver_specific()));
    }
}

unsafe extern "C" fn write_config<B: Bdev>(bdev: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is live.
    let on_bus = unsafe { &*bdev.cast_const().cast::<OnBus<B>>() };
    // SAFETY: the sink is valid for the call.
    if let Some(sink) = unsafe { Sink::new(sink) } {
        enter((), || {
            let params = on_bus.params.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !on_bus.method.is_empty() {
                on_bus.bdev.write_config(&mut Config::new(sink), &on_bus.method, &params);
            }
        });
    }
}

unsafe extern "C" fn dump_stats<B: Bdev>(bdev: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is live.
    let on_bus = unsafe { &*bdev.cast_const().cast::<OnBus<B>>() };
    // SAFETY: the sink is valid for the call.
    let Some(sink) = (unsafe { Sink::new(sink) }) else { return };
    enter((), || {
        let counters = on_bus.bdev.statistics();
        if !counters.is_empty() {
            sink.write_json(&counters);
        }
    });
}

unsafe extern "C" fn reset_stats<B: Bdev>(bdev: *mut c_void) {
    // SAFETY: the bdev is live.
    let on_bus = unsafe { &*bdev.cast_const().cast::<OnBus<B>>() };
    enter((), || on_bus.bdev.reset_statistics());
}

unsafe extern "C" fn space<B: Bdev>(bdev: *mut c_void, total: *mut u64, free: *mut u64) {
    // SAFETY: the bdev is live.
    let on_bus = unsafe { &*bdev.cast_const().cast::<OnBus<B>>() };
    let Some(space) = enter(None, || on_bus.bdev.space()) else { return };
    // SAFETY: the host passes a valid place for the size of the pool.
    unsafe { total.write(space.total) };
    // SAFETY: the host passes a valid place for the free part.
    unsafe { free.write(space.free) };
}

/// The poller of a channel. The channel drops it before itself.
struct ChannelPoll<B: Bdev>(NonNull<ModuleChannel<B>>);

impl<B: Bdev> Poll for ChannelPoll<B> {
    const SLEEPS: bool = B::SLEEPS;

    fn poll(&mut self) -> bool {
        // SAFETY: the channel is live, and this is its thread.
        unsafe { ModuleChannel::try_run(self.0, false, |bdev: &B, state| bdev.poll(state)) }
    }

    fn prepare_sleep(&mut self) -> bool {
        // SAFETY: the channel is live, and this is its thread.
        unsafe { ModuleChannel::try_run(self.0, true, |bdev: &B, state| bdev.prepare_sleep(state)) }
    }

    fn woke(&mut self) {
        // SAFETY: the channel is live, and this is its thread.
        unsafe { ModuleChannel::try_run(self.0, (), |bdev: &B, state| bdev.woke(state)) }
    }
}
