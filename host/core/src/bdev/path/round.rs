//! The end of a round: the thread calls the modules' `flush`, submits waiting I/O again, and closes
//! channels that nobody references.

use super::{channel_life, dispatch, quarantine, starved};
use crate::bdev::state::{self, Channel, Gate, Phase, ThreadChannels};
use crate::reactor::clock;

/// Calls `flush` for ended bursts, submits waiting I/O again, and closes unreferenced channels.
pub(crate) fn end(channels: &ThreadChannels) {
    channels.visit_dirty(flush);
    channels.visit_scheduled(|channel| {
        if retry(channel, channels) {
            channel_life::close(channels, channel);
        }
    });
}

/// Ends a burst before the round ends: calls the module's `flush`.
pub(crate) fn end_burst(handle: u64) {
    state::with(handle, |way| flush(way.channel));
}

/// Calls the module's `flush`: the burst has ended. If a client's completion callback asks for
/// this while the module is being called, the call happens at the end of the round instead.
fn flush(channel: &Channel) {
    let Some(flush) = channel.bdev.ops.flush else { return };
    if channel.gate.has(Gate::BUSY) {
        return;
    }
    if channel.dirty.replace(false) && channel.phase.get() == Phase::Ready {
        channel.gate.set(Gate::BUSY);
        // SAFETY: the module's channel is alive in phase Ready, and this is its thread.
        unsafe { flush(channel.module.get()) };
        dispatch::leave(channel);
    }
}

/// Submits waiting I/O again if it is time. Returns whether the channel can be closed.
fn retry(channel: &Channel, channels: &ThreadChannels) -> bool {
    channel.is_scheduled.set(false);
    if !channel.starved.is_empty() {
        starved::resume(channel); // the channel's own buffer may be free now
    }
    if channel.quarantined.get() != 0 {
        // Search rarely: the search is slow, a device may hold the I/O for a long time, and
        // this thread also serves other disks.
        if clock::now() >= channel.retry_at_ns.get() || channel.outstanding.get() == 0 {
            quarantine::end_requests(channel);
        } else {
            channel.schedule_on(channels);
        }
    } else if clock::now() >= channel.retry_at_ns.get() {
        dispatch::resume(channel);
    }
    if channel.gate.has(Gate::WAITED) && !channel.gate.has(Gate::HELD) {
        channel.schedule_on(channels);
    }
    channel.gate.has(Gate::LEFT)
        && !channel.gate.has(Gate::BUSY | Gate::WAITED)
        && channel.outstanding.get() == 0
        && channel.starved.is_empty()
        && !channel.waits_for_buffer.get()
        && matches!(channel.phase.get(), Phase::Ready | Phase::Failed)
}
