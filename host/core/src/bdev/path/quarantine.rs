//! The channels of a failed module: the bus completes their I/O from then on. New I/O completes with
//! `EIO`. I/O that was at the module also completes with `EIO`, but only when nothing uses its
//! buffers any more: while the module's children or a device hold an I/O (`bay_io.holds`), it is
//! quarantined.

use super::{channel_life, complete};
use crate::bdev::state::{Channel, Gate, Io, Phase, ThreadChannels, failed_owners};
use crate::reactor::thread;
use std::cell::RefCell;
use std::sync::atomic::Ordering;

/// The status that clients of a failed module get.
const STATUS: i32 = -libc::EIO;

/// How often the bus checks whether quarantined I/O can complete, in nanoseconds.
const CHECK_NS: u64 = 100_000_000;

/// The plugin `owner` has failed: takes over the channels that a thread has of its bdevs.
pub(in crate::bdev) fn take_over_all(channels: &ThreadChannels, owner: usize) {
    channels.for_each(|channel| {
        if channel.bdev.owner == owner {
            take_over(channel);
        }
    });
}

/// Takes a channel over from its failed module. It may free the channel.
pub(super) fn take_over(channel: &Channel) {
    match channel.phase.get() {
        Phase::Creating => channel_life::ready(channel, std::ptr::null_mut(), STATUS),
        Phase::Ready => {
            channel.failure.set(STATUS);
            channel.phase.set(Phase::Failed);
            channel.gate.set(Gate::CREATION);
            channel_life::fail_waiting(channel, STATUS);
            end_requests(channel);
        }
        Phase::Closing => channel_life::closed(channel),
        Phase::Failed => {}
    }
}

/// Completes the module's I/O that neither a child nor a device holds. If held I/O remains, the
/// channel is checked again later.
pub(super) fn end_requests(channel: &Channel) {
    let may_end = failed_owners::may_end_requests(channel.bdev.owner);
    if may_end {
        for io in at_module(channel) {
            // Check again: the completion of an earlier I/O in the list may have completed or
            // changed this I/O.
            if io.is_at_module_of(channel) && io.request().holds == 0 {
                // SAFETY: the I/O is at the module, which does not run any more, and nobody else
                // holds it.
                unsafe { complete::done(io.abi(), STATUS) };
            }
        }
    }
    let left = u32::try_from(at_module(channel).len()).unwrap_or(u32::MAX);
    let before = channel.quarantined.replace(left);
    channel.bdev.quarantined.fetch_add(left.wrapping_sub(before), Ordering::Relaxed);
    if left != 0 && may_end {
        channel.retry_after(CHECK_NS);
    }
}

/// The I/O that is at the channel's module and was not passed on.
fn at_module(channel: &Channel) -> Vec<Io> {
    let found = RefCell::new(Vec::new());
    if channel.outstanding.get() != 0 {
        thread::with_current(|thread| {
            thread.bdevs.any_io(|io| {
                if io.is_at_module_of(channel) {
                    found.borrow_mut().push(io);
                }
                false
            })
        });
    }
    found.into_inner()
}
