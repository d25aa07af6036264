//! The life of a channel: a client gets it, the module creates its part, and the channel closes at
//! the end of a round in which nobody references it.

use super::{complete, dispatch, quarantine, starved};
use crate::bdev::state::{Bdev, Calls, Channel, Desc, Gate, Phase, ThreadChannels};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Gets the current thread's channel of the bdev, and creates it if there is none. The handle is
/// only valid on this thread.
///
/// # Errors
/// `EPERM` outside of a lightweight thread; `ENODEV` for a bdev that is being removed; the module's
/// error when it cannot create its part.
pub(crate) fn get(desc: &Arc<Desc>) -> Result<u64> {
    thread::with_current(|thread| get_on(&thread.bdevs, desc))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

fn get_on(channels: &ThreadChannels, desc: &Arc<Desc>) -> Result<u64> {
    if desc.bdev.is_removed() {
        return Err(Error::no_such_device());
    }
    let channel = match channels.of(&desc.bdev) {
        Some(channel) => channel,
        None => create(channels, &desc.bdev)?,
    };
    Ok(channels.add_reference(desc, channel))
}

fn create<'a>(channels: &'a ThreadChannels, bdev: &Arc<Bdev>) -> Result<&'a Channel> {
    let (Some(submit), Some(chan_create)) = (bdev.ops.submit, bdev.ops.chan_create) else {
        return Err(Error::new(libc::EINVAL, "the module has no submit or chan_create"));
    };
    let handle = channels.next_handle();
    let calls = Calls { done: complete::done, buffer_is_free: starved::buffer_is_free };
    let channel = channels.insert(Channel::new(bdev, submit, handle, calls));
    bdev.channels.fetch_add(1, Ordering::AcqRel);
    if bdev.has_failed() {
        quarantine::take_over(channel);
        return Ok(channel);
    }
    let args = bay_chan_args {
        size: size_of_table::<bay_chan_args>(),
        numa: bdev.record.numa,
        thread: thread::current_id(),
        host_chan: handle,
        handover: ptr::null(),
    };
    let mut module = ptr::null_mut();
    // SAFETY: the bdev's context belongs to its operations; both outlive the channel.
    let status = unsafe { chan_create(bdev.ctx, &raw const args, &raw mut module) };
    match status {
        1 => Ok(channel), // the module calls `chan_ready` later
        0 => {
            ready(channel, module, 0);
            Ok(channel)
        }
        errno => {
            drop(channels.remove(channel));
            bdev.channels.fetch_sub(1, Ordering::AcqRel);
            Err(Error::new(
                -errno,
                format!("bdev {}: its module could not create a channel", bdev.name),
            ))
        }
    }
}

/// The module has created its part (`status` 0), or failed to.
pub(crate) fn ready(channel: &Channel, module: *mut c_void, status: i32) {
    if channel.phase.get() != Phase::Creating {
        return;
    }
    if status == 0 {
        channel.module.set(module);
        channel.phase.set(Phase::Ready);
        channel.gate.put(Gate::RESET, channel.bdev.is_resetting());
        channel.copy_quiesced();
        channel.gate.clear(Gate::CREATION);
        dispatch::resume(channel);
    } else {
        channel.failure.set(status);
        channel.phase.set(Phase::Failed);
        fail_waiting(channel, status);
    }
    if channel.gate.has(Gate::LEFT) {
        channel.retry_soon(); // all references are gone
    }
}

/// The module has resources again: submits the I/O that waits for them.
pub(crate) fn kick(channel: &Channel) {
    dispatch::resume(channel);
    if channel.gate.has(Gate::WAITED) {
        channel.retry_soon(); // the module was being called, or still has too few
    }
}

/// The module has destroyed its part, after `chan_destroy` returned "pending".
pub(crate) fn closed(channel: &Channel) {
    if channel.phase.get() == Phase::Closing {
        thread::with_current(|thread| free(&thread.bdevs, channel));
    }
}

pub(super) fn close(channels: &ThreadChannels, channel: &Channel) {
    let was = channel.phase.replace(Phase::Closing);
    let pending = was == Phase::Ready
        && channel.bdev.ops.chan_destroy.is_some_and(|destroy| {
            // SAFETY: the module's channel is alive, has no I/O, and is not used again.
            unsafe { destroy(channel.bdev.ctx, channel.module.get()) == 1 }
        });
    if !pending {
        free(channels, channel);
    }
}

/// Frees a channel whose module part is gone.
fn free(channels: &ThreadChannels, channel: &Channel) {
    let Some(channel) = channels.remove(channel) else { return };
    channel.bdev.retired.add(&channel.stats.sum());
    channel.bdev.channels.fetch_sub(1, Ordering::AcqRel);
    channel.bdev.proceed_with_removal();
}

/// Completes all I/O that waits in the channel with `status`.
pub(in crate::bdev) fn fail_waiting(channel: &Channel, status: i32) {
    while let Some(io) = channel.pop_waiting().or_else(|| channel.quiesced.pop_front()) {
        complete::finish(io, status);
    }
}
