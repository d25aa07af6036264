//! Second stage: hands an I/O to the module, or keeps it until it can be. Before: `submit`. After:
//! the module, which ends the I/O in `complete`.

use super::channel::{Channel, Phase};
use super::io::Io;
use super::{complete, quiesce};
use crate::reactor::clock;

/// Sends the I/O now, or queues it: behind others that wait, while the channel is held (creation,
/// reset, quiesce), or when the module is being called already. The last bounds the stack: a module may
/// complete inside `submit`, and its client may submit again from there.
pub(super) fn send(channel: &Channel, io: Io) {
    if has_to_wait(channel) && queued(channel, io) {
        return;
    }
    if channel.busy.get() {
        return channel.deferred.push_back(io);
    }
    channel.busy.set(true);
    hand_over(channel, io);
    send_deferred(channel);
    channel.busy.set(false);
}

fn has_to_wait(channel: &Channel) -> bool {
    channel.held.get().any() || !channel.waiting.is_empty()
}

/// Queues the I/O where it waits; `false`: what holds others does not hold this one.
#[cold]
fn queued(channel: &Channel, io: Io) -> bool {
    if channel.phase.get() == Phase::Failed {
        complete::finish(io, channel.failure.get());
    } else if quiesce::holds(channel, io) {
        hold_back(channel, io);
    } else if channel.held.get().all() || !channel.waiting.is_empty() {
        channel.waiting.push_back(io);
    } else {
        return false;
    }
    true
}

/// The I/O waits for `unquiesce`; for a bdev that goes away nobody will call that.
fn hold_back(channel: &Channel, io: Io) {
    if channel.bdev.is_removed() {
        return complete::finish(io, -libc::ENODEV);
    }
    channel.quiesced.push_back(io);
}

/// Sends what was held back and is not any more.
pub(super) fn let_go(channel: &Channel) {
    let held_back = channel.quiesced.take();
    while let Some(io) = held_back.pop_front() {
        send(channel, io);
    }
}

/// What was submitted while the module was being called.
fn send_deferred(channel: &Channel) {
    while let Some(next) = channel.deferred.pop_front() {
        if !(has_to_wait(channel) && queued(channel, next)) {
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
    if channel.bdev.is_removed() {
        return complete::finish(io, -libc::ENODEV); // as what waited when it was removed
    }
    channel.waiting.push_front(io);
    channel.retry_at_ns.set(clock::now() + RETRY_NS);
    channel.ask_for_attention();
}

/// Sends what waits, as far as the module takes it.
pub(super) fn resume(channel: &Channel) {
    if channel.held.get().all() || channel.busy.get() {
        return;
    }
    channel.busy.set(true);
    while !channel.held.get().all() {
        let Some(io) = channel.waiting.pop_front() else { break };
        if channel.held.get().any() && quiesce::holds(channel, io) {
            hold_back(channel, io);
            continue;
        }
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
