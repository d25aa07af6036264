//! Fan-out: a module replaces an I/O with child I/Os to other bdevs. The children's data are parts of the
//! parent's own buffers, so no memory is allocated for them.
#![expect(unsafe_code, reason = "the module owns a parent until its last child has completed")]

use super::client::Channel;
use super::home;
use super::io::{BdevIo, Buffers, IoResult, finish_with};
use super::op::{IoFlags, IoId, Op};
use crate::error::Status;
use crate::host::host;
use drivebay_plugin_api::{bay_io, bay_io_cb_fn};
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

#[cfg(test)]
mod tests;

/// An I/O that its module replaces with children.
///
/// When this value is dropped and every child has completed, the I/O returns to its module through
/// [`Bdev::joined`](super::Bdev::joined). Without `joined`, it completes with the first failure of a child,
/// or with success. It stays on its thread.
#[derive(Debug)]
#[must_use = "dropping it ends the fan-out"]
pub struct FanOut(Parent);

impl BdevIo {
    /// Turns the I/O into a parent. [`FanOut::send`] submits its children.
    #[inline]
    pub fn fan_out(self) -> FanOut {
        let home = self.home();
        let io = self.into_raw();
        // SAFETY: the channel outlives its I/O.
        let joins = unsafe { home.as_ref() }.join.is_some();
        if joins {
            // SAFETY: only a bdev with a context has `joined`, and `submit` has called `begin`.
            unsafe { home::set_home(io, home) };
        }
        let parent = Parent { io, joins };
        // The `FanOut` itself counts as 1, so that children that complete at once do not complete the parent.
        parent.set_count(Count { pending: 1, failure: 0 });
        FanOut(parent)
    }
}

impl FanOut {
    /// The parent's op.
    #[must_use]
    pub fn op(&self) -> Op {
        Op::of(self.0.raw())
    }

    /// The parent's flags. Children have the same flags.
    #[must_use]
    pub fn flags(&self) -> IoFlags {
        IoFlags::from_bits(self.0.raw().flags)
    }

    /// The parent's id, for abort. Aborting the parent also aborts children that wait on a bus.
    #[must_use]
    pub fn id(&self) -> IoId {
        IoId(self.0.raw().id)
    }

    /// The parent's data.
    #[must_use]
    pub fn buffers(&self) -> Buffers<'_> {
        Buffers::of(self.0.raw())
    }

    /// Submits `op` to another bdev as a child. The data of the op is in the parent's buffers, starting at
    /// the parent's block `first`. Both bdevs must have the same block size.
    ///
    /// The child fails with `EINVAL` when the parent does not have these blocks.
    #[inline]
    pub fn send(&mut self, channel: &Channel, op: Op, first: u64) {
        self.send_as(0, channel, op, first);
    }

    /// As [`send`](Self::send), with a number for the child. In [`Bdev::joined`](super::Bdev::joined),
    /// [`BdevIo::first_failed`] returns the number of the child that failed first.
    #[inline]
    pub fn send_as(&mut self, number: u8, channel: &Channel, op: Op, first: u64) {
        let host = host();
        let (op_number, range, arg) = op.to_raw();
        let nblocks = if op.has_data() { range.nblocks } else { 0 };
        self.0.add();
        let (handle, parent) = (channel.handle(), self.0.io.as_ptr());
        // SAFETY: the module owns the parent; the channel belongs to this thread.
        let child =
            unsafe { (host.client.io_derive_part)(host.raw, handle, parent, first, nblocks) };
        let Some(child) = NonNull::new(child) else {
            return self.0.end_one(IoResult::new(Status::INVALID), number);
        };
        // SAFETY: this function owns the child until it submits it.
        let request = unsafe { &mut *child.as_ptr() };
        request.op = op_number;
        request.lba = range.lba;
        request.nblocks = range.nblocks;
        // The field of the second argument holds the child's number, because no op has a second argument.
        request.arg = [arg, number.into()];
        request.arg_len = 0;
        let ended: bay_io_cb_fn = if self.0.joins { joining_child_done } else { child_done };
        self.0.change_holds(1);
        // SAFETY: the module owns the parent and its data until the last child has completed.
        unsafe { (host.client.submit)(host.raw, child.as_ptr(), Some(ended), parent.cast()) };
    }

    /// Adds a child that the author completes: an I/O with another buffer, a timer, or work for another
    /// thread. The parent waits for it.
    pub fn child(&mut self) -> Child {
        self.child_as(0)
    }

    /// As [`child`](Self::child), with a number for the child as in [`send_as`](Self::send_as).
    pub fn child_as(&mut self, number: u8) -> Child {
        self.0.add();
        Child(self.0, number)
    }

    /// Sets the detail that the parent completes with, unless a child fails.
    pub fn succeed_with(&mut self, result: IoResult) {
        self.0.record(result, None);
    }

    /// Records a failure. The parent completes with it when its children have completed.
    pub fn fail(&mut self, status: impl Into<Status>) {
        self.0.record(IoResult::new(status.into()), None);
    }
}

impl Drop for FanOut {
    #[inline]
    fn drop(&mut self) {
        self.0.end_one(IoResult::new(Status::SUCCESS), 0);
    }
}

/// A child that the author completes. Dropping it completes it with `EIO`. It stays on its thread.
#[derive(Debug)]
#[must_use = "the parent waits for its children"]
pub struct Child(Parent, u8);

impl Child {
    /// Completes the child.
    pub fn end(self, result: IoResult) {
        let child = ManuallyDrop::new(self);
        child.0.end_one(result, child.1);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.0.end_one(IoResult::new(Status::IO_ERROR), self.1);
    }
}

/// A request of the module. Its `link` field counts its children.
#[derive(Clone, Copy, Debug)]
struct Parent {
    io: NonNull<bay_io>,
    /// Whether `joined` gets the request when its children have completed.
    joins: bool,
}

/// Number of children that have not completed, and the first failure.
#[derive(Clone, Copy, Debug)]
struct Count {
    pending: u32,
    failure: i32,
}

impl Parent {
    fn raw(&self) -> &bay_io {
        // SAFETY: the module owns the request until the last child has completed; only `link` and `detail` change.
        unsafe { self.io.as_ref() }
    }

    #[inline]
    fn count(self) -> Count {
        // SAFETY: the module owns the request, and its link has been a number since `fan_out`.
        let word = unsafe { (*self.io.as_ptr()).link }.addr() as u64;
        let [.., a, b, c, d] = word.to_be_bytes();
        let [e, f, g, h, ..] = word.to_be_bytes();
        Count {
            pending: u32::from_be_bytes([a, b, c, d]),
            failure: i32::from_be_bytes([e, f, g, h]),
        }
    }

    #[inline]
    fn set_count(self, count: Count) {
        let word = u64::from(count.failure.cast_unsigned()) << 32 | u64::from(count.pending);
        let word = usize::try_from(word).unwrap_or(0); // 64 bits on every target
        // SAFETY: the module owns the request.
        unsafe { (*self.io.as_ptr()).link = ptr::without_provenance_mut(word) };
    }

    /// Counts the children that may access the parent's buffers.
    #[inline]
    fn change_holds(self, by: i16) {
        // SAFETY: the module owns the request until the last child has completed.
        let holds = unsafe { (*self.io.as_ptr()).holds };
        // SAFETY: as above.
        unsafe { (*self.io.as_ptr()).holds = holds.wrapping_add_signed(by) };
    }

    fn add(self) {
        let count = self.count();
        self.set_count(Count { pending: count.pending + 1, ..count });
    }

    /// Keeps the first failure with its detail, or a success with a detail.
    fn record(self, result: IoResult, number: Option<u8>) {
        let count = self.count();
        if count.failure == 0 && (!result.status.is_success() || result.has_detail()) {
            if self.joins
                && let Some(number) = number.filter(|_| !result.status.is_success())
            {
                // SAFETY: the module owns the request, and its bdev has `joined`; `submit` has called `begin`.
                unsafe { home::set_failed(self.io, number) };
            }
            self.set_count(Count { failure: result.status.raw(), ..count });
            result.write_detail(self.io);
        }
    }

    #[inline]
    fn end_one(self, result: IoResult, number: u8) {
        if !result.status.is_success() || result.has_detail() {
            self.record(result, Some(number));
        }
        let Count { pending, failure } = self.count();
        if pending > 1 {
            return self.set_count(Count { pending: pending - 1, failure });
        }
        self.end(failure);
    }

    fn end(self, failure: i32) {
        let result = IoResult::read(failure, self.raw());
        if !self.joins {
            return finish_with(self.io, result);
        }
        // SAFETY: `fan_out` has set it.
        let Some(home) = (unsafe { home::home_of(self.io) }) else { return };
        // SAFETY: the children have completed, so the module alone owns the request.
        let io = unsafe { BdevIo::new(self.io, home) };
        // SAFETY: the channel outlives its I/O.
        match unsafe { home.as_ref() }.join {
            // SAFETY: the function belongs to the channel, and this is the channel's thread.
            Some(join) => unsafe { join(home, io, result) },
            None => io.complete_with(result),
        }
    }
}

unsafe extern "C" fn child_done(parent: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `parent` is the pointer that `send` gave the host, and the parent waits for its children.
    unsafe { count_child(parent, child, status, false) };
}

unsafe extern "C" fn joining_child_done(parent: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: as above.
    unsafe { count_child(parent, child, status, true) };
}

/// # Safety
/// `parent` is the request that waits for `child`; `child` is valid during the host's callback.
#[inline]
unsafe fn count_child(parent: *mut c_void, child: *mut bay_io, status: i32, joins: bool) {
    let Some(io) = NonNull::new(parent.cast::<bay_io>()) else { return };
    // SAFETY: `child` is valid during the callback.
    let child = unsafe { &*child };
    let [number, ..] = child.arg[1].to_le_bytes();
    let parent = Parent { io, joins };
    parent.change_holds(-1);
    parent.end_one(IoResult::read(status, child), number);
}
