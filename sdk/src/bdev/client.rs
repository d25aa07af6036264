//! I/O to an open bdev.
#![expect(unsafe_code, reason = "lends memory to the host for the duration of an I/O")]

use super::io::{BdevIo, IoResult};
use super::op::{IoFlags, Op};
use crate::buf::Buf;
use crate::entry::enter;
use crate::error::{Result, Status, check};
use crate::host::{Host, host};
use drivebay_plugin_api::{Data, bay_io, bay_iov, bay_wait};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::Rc;

/// The context of an I/O: its buffers and other values of its owner. The I/O owns the context while it is in
/// flight, and the owner gets the context back at completion. A context fits in a pointer, so an I/O
/// allocates no memory.
///
/// # Safety
/// From `into_raw` to `from_raw`, the list that `iov` returns and the memory it refers to must not move.
/// They must be valid for reads and writes, and only the I/O may access them.
pub unsafe trait IoContext: Sized + 'static {
    /// Turns the context into a raw pointer.
    fn into_raw(self) -> *mut c_void;

    /// Turns the raw pointer back into the context.
    ///
    /// # Safety
    /// `raw` is from `into_raw` and was not passed to `from_raw` before.
    unsafe fn from_raw(raw: *mut c_void) -> Self;

    /// The scatter/gather list.
    ///
    /// # Safety
    /// `raw` is from `into_raw` and was not passed to `from_raw` yet.
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16);
}

/// No data, for flush, unmap and reset.
// SAFETY: there is no memory.
unsafe impl IoContext for () {
    fn into_raw(self) -> *mut c_void {
        std::ptr::null_mut()
    }
    unsafe fn from_raw(_raw: *mut c_void) {}
    unsafe fn iov(_raw: *mut c_void) -> (*const bay_iov, u16) {
        (std::ptr::null(), 0)
    }
}

/// Any state of the author with one buffer in it. The owner gets the box back and can use it again.
// SAFETY: no code touches the box before `from_raw`, so neither the box nor its buffer moves; `as_mut`
// proves that there is no other reference to the buffer.
unsafe impl<T: AsMut<Buf> + 'static> IoContext for Box<T> {
    fn into_raw(self) -> *mut c_void {
        Self::into_raw(self).cast()
    }
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::from_raw(raw.cast()) }
    }
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: this code owns the box until `from_raw`.
        let state = unsafe { &mut *raw.cast::<T>() };
        (state.as_mut().iov(), 1)
    }
}

/// One thread's channel of a bdev. Dropping it releases the channel; its I/O must have completed by then.
#[derive(Debug)]
pub struct Channel(Rc<Inner>);

struct Inner {
    handle: u64,
    block_size: u32,
    /// Whether `wait` is in the host's queue.
    is_waiting: Cell<bool>,
    wait: Cell<bay_wait>,
    /// I/Os that wait for a request; empty unless `is_waiting`. The owners' contexts limit its length.
    backlog: RefCell<VecDeque<Waiting>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// An I/O that waits for a request.
#[derive(Clone, Copy)]
struct Waiting {
    op: Op,
    flags: IoFlags,
    raw: *mut c_void,
    iov: (*const bay_iov, u16),
    ended: unsafe extern "C" fn(*mut c_void, *mut bay_io, i32),
}

impl Channel {
    pub(super) fn get(desc: u64, block_size: u32) -> Result<Self> {
        let host = host();
        let mut handle = 0;
        // SAFETY: the result outlives the call.
        let status = unsafe { (host.client.chan_get)(host.raw, desc, &raw mut handle) };
        check(status, "channel")?;
        Ok(Self(Rc::new(Inner {
            handle,
            block_size,
            is_waiting: Cell::new(false),
            wait: Cell::new(bay_wait {
                cb: Some(io_available),
                arg: std::ptr::null_mut(),
                link: std::ptr::null_mut(),
                rsv: 0,
            }),
            backlog: RefCell::new(VecDeque::new()),
        })))
    }

    /// Submits an I/O. `done` receives the context and the result, exactly once, on this thread, during
    /// this call or later. If the host has no free request, the I/O waits.
    ///
    /// `done` must not capture anything (checked at compile time): put what it needs into the context. The
    /// data must be as long as the op's blocks, otherwise the I/O completes with `EINVAL`.
    #[inline]
    pub fn submit<C, F>(&self, op: Op, flags: IoFlags, context: C, done: F)
    where
        C: IoContext,
        F: Fn(C, IoResult) + Copy + 'static,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "`done` must not capture anything: put what it needs into the context"
            )
        };
        let _ = done;
        let raw = context.into_raw();
        // SAFETY: `raw` was just made from the context.
        let iov = unsafe { C::iov(raw) };
        let io = Waiting { op, flags, raw, iov, ended: io_done::<C, F> };
        // SAFETY: the list is valid from `into_raw` on.
        if op.has_data() && !unsafe { self.0.fits(op, iov) } {
            // SAFETY: this completes the I/O, which is not submitted.
            unsafe { (io.ended)(raw, std::ptr::null_mut(), Status::INVALID.raw()) };
        } else if self.0.is_waiting.get() {
            self.0.backlog.borrow_mut().push_back(io);
        } else {
            self.0.start(io);
        }
    }

    pub(super) fn handle(&self) -> u64 {
        self.0.handle
    }

    /// Reports that a burst of submits has ended, so that the module rings its doorbell once.
    #[inline]
    pub fn flush(&self) {
        let host = host();
        // SAFETY: `self` owns the handle, and this is its thread.
        unsafe { (host.client.flush)(host.raw, self.0.handle) };
    }

    /// Passes a request on unchanged, and completes it with the result of the other bdev. For filters.
    #[inline]
    pub fn pass(&self, io: BdevIo) {
        let lba = io.lba();
        self.pass_at(io, lba);
    }

    /// As [`pass`](Self::pass), with `lba` as the first block. The blocks of the I/O must be contiguous on
    /// the other bdev too.
    #[inline]
    pub fn pass_to(&self, io: BdevIo, lba: u64) {
        self.pass_at(io, lba);
    }

    /// As [`pass`](Self::pass), at `lba + offset` instead of `lba`. The sum wraps around, so `offset` can move an I/O down, too.
    #[inline]
    pub fn pass_at_offset(&self, io: BdevIo, offset: u64) {
        let lba = io.lba().wrapping_add(offset);
        self.pass_at(io, lba);
    }

    #[inline]
    fn pass_at(&self, io: BdevIo, lba: u64) {
        let host = host();
        let io = io.into_raw();
        // SAFETY: this function owns the request and gives it to the host; the channel belongs to this thread.
        unsafe { (host.client.pass)(host.raw, self.0.handle, io.as_ptr(), lba) };
    }
}

impl Inner {
    /// Whether the list has as many bytes as the op needs.
    ///
    /// # Safety
    /// The list is readable.
    #[inline]
    unsafe fn fits(&self, op: Op, (iov, count): (*const bay_iov, u16)) -> bool {
        let (_, range, _) = op.to_raw();
        let times = match op.rules().map(|rules| rules.data) {
            Some(Data::Blocks) => 1,
            Some(Data::TwiceBlocks) => 2,
            Some(Data::Bytes | Data::None) | None => return true,
        };
        if iov.is_null() {
            return range.nblocks == 0;
        }
        // SAFETY: the caller's promise.
        let list = unsafe { std::slice::from_raw_parts(iov, count.into()) };
        let len: u64 = list.iter().map(|piece| u64::from(piece.len)).sum();
        let blocks = range.nblocks.checked_mul(times);
        blocks.and_then(|blocks| blocks.checked_mul(self.block_size.into())) == Some(len)
    }

    /// Submits the I/O, or queues it when there is no free request.
    #[inline]
    fn start(self: &Rc<Self>, io: Waiting) {
        let host = host();
        // SAFETY: the call queues no waiter, so it needs no reference count.
        let free = unsafe { (host.client.io_get)(host.raw, self.handle, std::ptr::null_mut()) };
        match NonNull::new(free) {
            // SAFETY: this function owns the request.
            Some(free) => unsafe { submit(free, &io) },
            None => self.wait(io),
        }
    }

    #[cold]
    fn wait(self: &Rc<Self>, io: Waiting) {
        self.backlog.borrow_mut().push_back(io);
        self.drain();
    }

    /// Submits waiting I/Os until none is left or the host has no free request.
    fn drain(self: &Rc<Self>) {
        let host = host();
        self.is_waiting.set(true);
        loop {
            if self.backlog.borrow().is_empty() {
                self.is_waiting.set(false);
                return;
            }
            let wait = self.wait.as_ptr();
            let given = Rc::into_raw(Rc::clone(self));
            // SAFETY: the waiter is not queued.
            unsafe { (*wait).arg = given.cast_mut().cast() };
            // SAFETY: the reference count in `given` keeps the waiter's memory alive for the host.
            let free = unsafe { (host.client.io_get)(host.raw, self.handle, wait) };
            let Some(free) = NonNull::new(free) else { return };
            // SAFETY: the host did not queue the waiter, so the count belongs to this function again.
            drop(unsafe { Rc::from_raw(given) });
            let first = self.backlog.borrow_mut().pop_front();
            if let Some(first) = first {
                // SAFETY: this function owns the request.
                unsafe { submit(free, &first) };
            }
        }
    }

    /// Removes the waiter from the host's queue.
    fn stop_waiting(&self, host: &Host) {
        if self.is_waiting.get() {
            let wait = self.wait.as_ptr();
            // SAFETY: `self` owns the handle, and this is its thread.
            if unsafe { (host.client.io_abort)(host.raw, self.handle, wait) } == 0 {
                // SAFETY: `self` owns `wait`, and the host no longer uses it.
                let arg = unsafe { (*wait).arg }.cast_const();
                // SAFETY: `arg` is the reference count that `drain` gave the host.
                drop(unsafe { Rc::from_raw(arg.cast::<Self>()) });
            }
        }
    }

    /// Aborts the waiting I/Os. Their owners get the contexts back.
    #[cold]
    fn abandon(&self) {
        let waiting = self.backlog.take();
        for io in waiting {
            // SAFETY: this completes the I/O, which is not submitted.
            unsafe { (io.ended)(io.raw, std::ptr::null_mut(), Status::ABORTED.raw()) };
        }
    }
}

/// # Safety
/// `free` is a request from the host that was not submitted; `io` is not submitted yet.
#[inline]
unsafe fn submit(free: NonNull<bay_io>, io: &Waiting) {
    let host = host();
    let (op, range, arg) = io.op.to_raw();
    // SAFETY: this function owns the request until it submits it.
    let request = unsafe { &mut *free.as_ptr() };
    request.op = op;
    request.flags = io.flags.bits();
    request.lba = range.lba;
    request.nblocks = range.nblocks;
    (request.iov, request.iovcnt) = io.iov;
    request.arg = [arg, 0];
    // SAFETY: the context keeps the list valid until `io_done` turns it back.
    unsafe { (host.client.submit)(host.raw, free.as_ptr(), Some(io.ended), io.raw) };
}

unsafe extern "C" fn io_available(arg: *mut c_void) {
    // SAFETY: `arg` is the reference count that `drain` gave the host.
    let inner = unsafe { Rc::from_raw(arg.cast_const().cast::<Inner>()) };
    enter((), move || inner.drain()); // does nothing when the channel is dropped
}

/// Completes an I/O, on the host's call. `io` is NULL when the I/O was never submitted.
unsafe extern "C" fn io_done<C, F>(arg: *mut c_void, io: *mut bay_io, status: i32)
where
    C: IoContext,
    F: Fn(C, IoResult) + Copy + 'static,
{
    // SAFETY: the host keeps `io` valid during the call.
    let result = match unsafe { io.as_ref() } {
        Some(io) => IoResult::read(status, io),
        None => IoResult::new(Status::from_raw(status)),
    };
    // SAFETY: the I/O has completed, and this is the only call for it.
    let context = unsafe { C::from_raw(arg) };
    enter((), || {
        // SAFETY: `F` has no size, and `submit` received a value of it, which may be copied.
        let done = unsafe { NonNull::<F>::dangling().as_ref() };
        done(context, result);
    });
}

impl Drop for Channel {
    fn drop(&mut self) {
        let host = host();
        self.0.stop_waiting(host);
        self.0.abandon();
        // SAFETY: `self` owns the handle, and this is its thread.
        let status = unsafe { (host.client.chan_put)(host.raw, self.0.handle) };
        if status != 0 {
            tracing::error!(
                "cannot release a channel, because its I/O has not completed: status {status}"
            );
        }
    }
}
