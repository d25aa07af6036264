//! I/O that waits for one of the host's buffers.

use super::submit;
use crate::bdev::state::{Channel, Gate, Io};
use crate::env::buf;
use std::ffi::c_void;
use std::ptr;

/// Queues an I/O for which no buffer of `len` bytes is free. It starts again when one is.
pub(super) fn wait(channel: &Channel, io: Io, len: usize) {
    channel.starved.push_back(io);
    if channel.waits_for_buffer.replace(true) {
        return;
    }
    let wait = channel.buffer_wait.get();
    // SAFETY: the entry is not queued, so nobody else uses it.
    unsafe { (*wait).arg = ptr::from_ref(channel).cast_mut().cast() };
    // SAFETY: the entry lives as long as the channel, and the channel is not freed while the
    // entry is queued.
    if let Some((buffer, _)) = unsafe { buf::get(len, wait) } {
        // A buffer became free in the meantime, so nothing is queued.
        buf::put(buffer, len);
        channel.waits_for_buffer.set(false);
        channel.retry_soon();
    }
}

/// The callback of `buffer_wait`: a buffer is free for the I/O in `starved`. Runs on the channel's
/// thread.
pub(super) unsafe extern "C" fn buffer_is_free(arg: *mut c_void) {
    // SAFETY: `wait` passed the channel, which is not freed while it waits for a buffer.
    let channel = unsafe { &*arg.cast_const().cast::<Channel>() };
    channel.waits_for_buffer.set(false);
    resume(channel);
}

/// Starts the I/O that waits for a buffer, until one of them has to wait again.
pub(super) fn resume(channel: &Channel) {
    let starved = channel.starved.take();
    while let Some(io) = starved.pop_front() {
        submit::submit(io);
        if !channel.starved.is_empty() {
            break;
        }
    }
    while let Some(io) = starved.pop_front() {
        channel.starved.push_back(io);
    }
    if channel.gate.has(Gate::LEFT) {
        channel.retry_soon();
    }
}
