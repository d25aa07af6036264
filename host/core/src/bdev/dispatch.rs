//! Second stage: hands an I/O to the module, or keeps it until it can be. Before: `submit`. After:
//! the module, which ends the I/O in `complete`.

use super::channel::{Channel, Phase};
use super::complete;
use super::io::Io;
use crate::reactor::clock;

/// Sends the I/O now, or queues it: behind others that wait, while the channel is held (creation,
/// reset), or when the module is being called already. The last bounds the stack: a module may
/// complete inside `submit`, and its client may submit again from there.
pub(super) fn send(channel: &Channel, io: Io) {
    if channel.held.get() || !channel.waiting.is_empty() {
        if channel.phase.get() == Phase::Failed {
            return complete::finish(io, channel.failure.get());
        }
        return channel.waiting.push_back(io);
    }
    if channel.busy.get() {
        return channel.deferred.push_back(io);
    }
    channel.busy.set(true);
    hand_over(channel, io);
    send_deferred(channel);
    channel.busy.set(false);
}

/// What was submitted while the module was being called.
fn send_deferred(channel: &Channel) {
    while let Some(next) = channel.deferred.pop_front() {
        if channel.held.get() || !channel.waiting.is_empty() {
            channel.waiting.push_back(next);
        } else {
            hand_over(channel, next);
        }
    }
}

/// Gives the I/O to the module, whatever else is going on.
pub(super) fn hand_over(channel: &Channel, io: Io) {
    channel.outstanding.set(channel.outstanding.get() + 1);
    let mut flags = io.flags.get();
    flags.sent = true;
    io.flags.set(flags);
    channel.mark_dirty();
    // SAFETY: the module channel is alive in phase Ready, this is its thread, and the I/O is the
    // module's from here to `done`.
    unsafe { (channel.submit)(channel.module.get(), io.abi()) };
}

/// The module had no resource: the I/O keeps its place at the front. It is sent again after `kick`,
/// after the next completion, or by a timer when nothing is outstanding.
pub(super) fn keep(channel: &Channel, io: Io) {
    channel.waiting.push_front(io);
    channel.retry_at_ns.set(clock::now() + RETRY_NS);
    channel.ask_for_attention();
}

/// Sends what waits, as far as the module takes it.
pub(super) fn resume(channel: &Channel) {
    if channel.held.get() || channel.busy.get() {
        return;
    }
    channel.busy.set(true);
    while !channel.held.get() {
        let Some(io) = channel.waiting.pop_front() else { break };
        hand_over(channel, io);
        if channel.waiting.front() == Some(io) {
            break; // it came back at once
        }
    }
    send_deferred(channel);
    channel.busy.set(false);
}

/// How long an I/O waits when nothing is outstanding that could free a resource.
const RETRY_NS: u64 = 1_000_000;
