//! Second stage: gives an I/O to the module, or queues it until the module can take it. Before this
//! stage: `submit`. After it: the module, which completes the I/O (`complete`) or, if it is a
//! filter, passes it on (`pass`).

use super::{complete, quiesce};
use crate::bdev::state::{Channel, Gate, Io, Phase};

/// Sends the I/O to the module now, or queues it. It is queued when other I/O already waits, while
/// the channel is held (creation, reset), or while the module is being called. The last case bounds
/// the stack: a module may complete an I/O inside `submit`, and the client may then submit the next
/// one from its callback.
#[inline]
pub(super) fn send(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::BUSY {
        return channel.deferred.push_back(io); // the usual case at queue depths above 1
    }
    enter_or_wait(channel, io);
}

/// As `send`, for callers that rarely find the module in a call: each call of a filter makes one
/// call of its base.
#[inline]
pub(super) fn send_on(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::OPEN { enter(channel, io) } else { send(channel, io) }
}

/// A separate function, so that `send` needs no stack frame for `enter`.
#[inline(never)]
fn enter_or_wait(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::OPEN { enter(channel, io) } else { wait_in_line(channel, io) }
}

/// Calls the module with `io` without checking the gate, and then with all I/O that was submitted
/// during the call.
#[inline]
pub(super) fn enter(channel: &Channel, io: Io) {
    channel.gate.set(Gate::BUSY);
    hand_over(channel, io);
    leave(channel);
}

/// Ends a call of the module: sends what was submitted during the call, and opens the gate.
#[inline]
pub(super) fn leave(channel: &Channel) {
    if !channel.deferred.is_empty() {
        send_deferred(channel);
    }
    channel.gate.clear(Gate::BUSY);
}

#[inline(never)]
fn wait_in_line(channel: &Channel, io: Io) {
    if channel.phase.get() == Phase::Failed {
        complete::finish(io, channel.failure.get());
    } else if quiesce::holds(channel, io) {
        hold_back(channel, io);
    } else if channel.gate.has(Gate::HELD | Gate::WAITED) {
        channel.push_waiting(io);
    } else if channel.gate.has(Gate::BUSY) {
        channel.deferred.push_back(io);
    } else {
        enter(channel, io); // the gate holds I/O, but its reasons do not apply to this I/O
    }
}

/// Queues the I/O until `unquiesce`. If the bdev is being removed, nobody will call that, so the
/// I/O fails.
fn hold_back(channel: &Channel, io: Io) {
    if channel.bdev.is_removed() {
        return complete::finish(io, -libc::ENODEV);
    }
    channel.quiesced.push_back(io);
}

/// Sends the I/O that no longer needs to be held back.
pub(super) fn release_held(channel: &Channel) {
    let held_back = channel.quiesced.take();
    while let Some(io) = held_back.pop_front() {
        send(channel, io);
    }
}

/// Sends the I/O that was submitted while the module was being called.
#[inline(never)]
fn send_deferred(channel: &Channel) {
    while let Some(next) = channel.deferred.pop_front() {
        if channel.gate.get() == Gate::BUSY || is_free(channel, next) {
            hand_over(channel, next);
        } else {
            wait_in_line(channel, next);
        }
    }
}

/// Whether this I/O passes although the gate is closed, because the reasons for that do not apply
/// to it.
#[cold]
fn is_free(channel: &Channel, io: Io) -> bool {
    !channel.gate.has(Gate::HELD | Gate::WAITED) && !quiesce::holds(channel, io)
}

/// Gives the I/O to the module. The gate already says that the module is being called.
#[inline]
fn hand_over(channel: &Channel, io: Io) {
    channel.outstanding.set(channel.outstanding.get() + 1);
    io.state.set_sent();
    channel.mark_dirty();
    // SAFETY: the module's channel is alive in phase Ready, this is its thread, and the module owns
    // the I/O from here to `done`.
    unsafe { (channel.submit)(channel.module.get(), io.abi()) };
}

/// The module lacked a resource for the I/O, so the I/O goes back to the front of the queue. The
/// bus submits it again after `kick`, after the next completion, or when a timer expires.
#[cold]
#[inline(never)]
pub(super) fn requeue(channel: &Channel, io: Io) {
    channel.outstanding.set(channel.outstanding.get() - 1);
    if channel.bdev.is_removed() {
        return complete::finish(io, -libc::ENODEV); // as for all I/O that waited when the removal began
    }
    channel.push_waiting_first(io, RETRY_NS);
}

/// Submits waiting I/O until the module lacks a resource again.
pub(super) fn resume(channel: &Channel) {
    if channel.gate.has(Gate::BUSY | Gate::HELD) {
        return;
    }
    channel.gate.set(Gate::BUSY);
    while !channel.gate.has(Gate::HELD) {
        let Some(io) = channel.pop_waiting() else { break };
        if channel.gate.has(Gate::QUIESCE) && quiesce::holds(channel, io) {
            hold_back(channel, io);
            continue;
        }
        hand_over(channel, io);
        if channel.is_first_waiting(io) {
            break; // the module still lacks the resource
        }
    }
    leave(channel);
}

/// How long an I/O waits when the module does not report that it has resources again, in
/// nanoseconds.
const RETRY_NS: u64 = 1_000_000;
