//! I/O to an open bdev.
#![expect(unsafe_code, reason = "lends memory to the host for the time of an I/O")]

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

/// What an I/O owns while it is in flight: its memory, and whatever its owner keeps beside it. It is
/// handed back when the I/O has ended. It fits in a pointer, so nothing is allocated for an I/O.
///
/// # Safety
/// From `into_raw` to `from_raw`, the list given by `iov` and the memory it names stay where they
/// are, valid for reads and writes, and untouched by anybody but the I/O.
pub unsafe trait IoContext: Sized + 'static {
    /// Gives the context away.
    fn into_raw(self) -> *mut c_void;

    /// Takes it back.
    ///
    /// # Safety
    /// `raw` is from `into_raw`, taken back once.
    unsafe fn from_raw(raw: *mut c_void) -> Self;

    /// Its scatter/gather list.
    ///
    /// # Safety
    /// `raw` is from `into_raw`, not taken back yet.
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16);
}

/// No data: flush, unmap, reset.
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

/// Any state of the author's with one buffer in it. The box is handed back, to be used again.
// SAFETY: the box is not touched before `from_raw`, so neither it nor its buffer moves; `as_mut` shows
// that nobody else refers to the buffer.
unsafe impl<T: AsMut<Buf> + 'static> IoContext for Box<T> {
    fn into_raw(self) -> *mut c_void {
        Self::into_raw(self).cast()
    }
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::from_raw(raw.cast()) }
    }
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: the box is ours until `from_raw`.
        let state = unsafe { &mut *raw.cast::<T>() };
        (state.as_mut().iov(), 1)
    }
}

/// One thread's way to a bdev. Dropping it gives it back; its I/O must have ended by then.
#[derive(Debug)]
pub struct Channel(Rc<Inner>);

struct Inner {
    handle: u64,
    block_size: u32,
    /// Whether `wait` is queued at the host.
    is_waiting: Cell<bool>,
    wait: Cell<bay_wait>,
    /// What waits for a request; empty unless `is_waiting`. Its owners' contexts bound it.
    backlog: RefCell<VecDeque<Waiting>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// An I/O that has no request yet.
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
        // SAFETY: the result lives through the call.
        let status = unsafe { (host.client.chan_get)(host.raw, desc, &raw mut handle) };
        check(status, "channel")?;
        Ok(Self(Rc::new(Inner {
            handle,
            block_size,
            is_waiting: Cell::new(false),
            wait: Cell::new(bay_wait {
                cb: Some(turn),
                arg: std::ptr::null_mut(),
                link: std::ptr::null_mut(),
                rsv: 0,
            }),
            backlog: RefCell::new(VecDeque::new()),
        })))
    }

    /// Sends an I/O down. `done` gets the context back with the result, exactly once, on this thread,
    /// from inside this call or later. When the host has no request left the I/O waits its turn.
    ///
    /// `done` captures nothing (checked when compiled): what it needs travels in the context. The
    /// data must be as long as the op's blocks, or the I/O ends with `EINVAL`.
    #[inline]
    pub fn submit<C, F>(&self, op: Op, flags: IoFlags, context: C, done: F)
    where
        C: IoContext,
        F: Fn(C, IoResult) + Copy + 'static,
    {
        const { assert!(size_of::<F>() == 0, "`done` may not capture: put it in the context") };
        let _ = done;
        let raw = context.into_raw();
        // SAFETY: given away just now.
        let iov = unsafe { C::iov(raw) };
        let io = Waiting { op, flags, raw, iov, ended: ended::<C, F> };
        // SAFETY: the list is valid from `into_raw` on.
        if op.has_data() && !unsafe { self.0.fits(op, iov) } {
            // SAFETY: ends the I/O instead of submitting it.
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

    /// A burst of submits has ended: the module rings its doorbell once.
    #[inline]
    pub fn flush(&self) {
        let host = host();
        // SAFETY: the handle is ours, on its thread.
        unsafe { (host.client.flush)(host.raw, self.0.handle) };
    }

    /// Passes a request on as it is and ends it as the other side does. For filters.
    #[inline]
    pub fn pass(&self, io: BdevIo) {
        let lba = io.lba();
        self.pass_at(io, lba);
    }

    /// As [`pass`](Self::pass), with `lba` as its first block: for an I/O whose blocks lie together on
    /// the other bdev, too.
    #[inline]
    pub fn pass_to(&self, io: BdevIo, lba: u64) {
        self.pass_at(io, lba);
    }

    /// As [`pass`](Self::pass), at `lba + offset` instead of `lba`.
    #[inline]
    pub fn pass_at_offset(&self, io: BdevIo, offset: u64) {
        let lba = io.lba().wrapping_add(offset);
        self.pass_at(io, lba);
    }

    #[inline]
    fn pass_at(&self, io: BdevIo, lba: u64) {
        let host = host();
        let io = io.into_raw();
        // SAFETY: the request was ours and is the host's from here on; the channel is this thread's.
        unsafe { (host.client.pass)(host.raw, self.0.handle, io.as_ptr(), lba) };
    }
}

impl Inner {
    /// Whether the list holds as many bytes as the op wants.
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

    /// Submits, or queues when there is no request.
    #[inline]
    fn start(self: &Rc<Self>, io: Waiting) {
        let host = host();
        // SAFETY: not queued; asked without waiting first, which needs no count.
        let free = unsafe { (host.client.io_get)(host.raw, self.handle, std::ptr::null_mut()) };
        match NonNull::new(free) {
            // SAFETY: the request is ours.
            Some(free) => unsafe { submit(free, &io) },
            None => self.wait(io),
        }
    }

    #[cold]
    fn wait(self: &Rc<Self>, io: Waiting) {
        self.backlog.borrow_mut().push_back(io);
        self.drain();
    }

    /// Submits what waits until it must wait again.
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
            // SAFETY: the count in `given` keeps the waiter's memory for the host.
            let free = unsafe { (host.client.io_get)(host.raw, self.handle, wait) };
            let Some(free) = NonNull::new(free) else { return };
            // SAFETY: not queued, so the count is ours again.
            drop(unsafe { Rc::from_raw(given) });
            let first = self.backlog.borrow_mut().pop_front();
            if let Some(first) = first {
                // SAFETY: the request is ours.
                unsafe { submit(free, &first) };
            }
        }
    }

    /// Leaves the host's queue.
    fn stop_waiting(&self, host: &Host) {
        if self.is_waiting.get() {
            let wait = self.wait.as_ptr();
            // SAFETY: the handle is ours, on its thread.
            if unsafe { (host.client.io_abort)(host.raw, self.handle, wait) } == 0 {
                // SAFETY: ours, and the host has let go of it.
                let arg = unsafe { (*wait).arg }.cast_const();
                // SAFETY: the count that `drain` gave the host.
                drop(unsafe { Rc::from_raw(arg.cast::<Self>()) });
            }
        }
    }

    /// Ends what waits; the contexts go back to their owners.
    #[cold]
    fn abandon(&self) {
        let waiting = self.backlog.take();
        for io in waiting {
            // SAFETY: ends the I/O instead of submitting it.
            unsafe { (io.ended)(io.raw, std::ptr::null_mut(), Status::ABORTED.raw()) };
        }
    }
}

/// # Safety
/// `free` is a request got from the host and not submitted; `io` is not submitted yet.
#[inline]
unsafe fn submit(free: NonNull<bay_io>, io: &Waiting) {
    let host = host();
    let (op, range, arg) = io.op.to_raw();
    // SAFETY: ours until it is submitted.
    let request = unsafe { &mut *free.as_ptr() };
    request.op = op;
    request.flags = io.flags.bits();
    request.lba = range.lba;
    request.nblocks = range.nblocks;
    (request.iov, request.iovcnt) = io.iov;
    request.arg = [arg, 0];
    // SAFETY: the context keeps the list valid until `ended` takes it back.
    unsafe { (host.client.submit)(host.raw, free.as_ptr(), Some(io.ended), io.raw) };
}

unsafe extern "C" fn turn(arg: *mut c_void) {
    // SAFETY: the count that `drain` gave the host.
    let inner = unsafe { Rc::from_raw(arg.cast_const().cast::<Inner>()) };
    enter((), move || inner.drain()); // does nothing when the channel is gone
}

/// The host's end of an I/O: `io` is NULL when it was never submitted.
unsafe extern "C" fn ended<C, F>(arg: *mut c_void, io: *mut bay_io, status: i32)
where
    C: IoContext,
    F: Fn(C, IoResult) + Copy + 'static,
{
    // SAFETY: the host's for the time of the call.
    let result = match unsafe { io.as_ref() } {
        Some(io) => IoResult::read(status, io),
        None => IoResult::new(Status::from_raw(status)),
    };
    // SAFETY: the I/O has ended, once.
    let context = unsafe { C::from_raw(arg) };
    enter((), || {
        // SAFETY: `F` has no size and `submit` was given a value of it to copy.
        let done = unsafe { NonNull::<F>::dangling().as_ref() };
        done(context, result);
    });
}

impl Drop for Channel {
    fn drop(&mut self) {
        let host = host();
        self.0.stop_waiting(host);
        self.0.abandon();
        // SAFETY: the handle is ours, on its thread.
        let status = unsafe { (host.client.chan_put)(host.raw, self.0.handle) };
        if status != 0 {
            tracing::error!("a channel was given back with status {status}: its I/O has not ended");
        }
    }
}
