//! Second stage: hands an I/O to the module, or keeps it until it can be. Before: `submit`. After:
//! the module, which ends the I/O in `complete` or, when it is a filter, sends it on in `pass`.

use super::channel::{Channel, Gate, Phase};
use super::io::Io;
use super::{complete, quiesce};

/// Sends the I/O now, or queues it: behind others that wait, while the channel is held (creation,
/// reset), or when the module is being called already. The last bounds the stack: a module may
/// complete inside `submit`, and its client may submit again from there.
#[inline]
pub(super) fn send(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::BUSY {
        return channel.deferred.push_back(io); // what most do, at any depth but 1
    }
    enter_or_wait(channel, io);
}

/// As `send`, for who rarely meets a module that is being called: a filter has one call of its own
/// for each of the base's.
#[inline]
pub(super) fn send_on(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::OPEN { enter(channel, io) } else { send(channel, io) }
}

/// Keeps the frame of `enter` out of `send`.
#[inline(never)]
fn enter_or_wait(channel: &Channel, io: Io) {
    if channel.gate.get() == Gate::OPEN { enter(channel, io) } else { wait_in_line(channel, io) }
}

/// Calls the module, whatever else is going on, until nothing is left that was submitted meanwhile.
#[inline]
pub(super) fn enter(channel: &Channel, io: Io) {
    channel.gate.set(Gate::BUSY);
    hand_over(channel, io);
    leave(channel);
}

/// The module has returned: what was submitted meanwhile is sent, and the gate is open again.
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
        enter(channel, io); // what holds others does not hold this one
    }
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

/// Whether what holds others does not hold this one.
#[cold]
fn is_free(channel: &Channel, io: Io) -> bool {
    !channel.gate.has(Gate::HELD | Gate::WAITED) && !quiesce::holds(channel, io)
}

/// Gives the I/O to the module. The gate says that it is being called.
#[inline]
fn hand_over(channel: &Channel, io: Io) {
    channel.outstanding.set(channel.outstanding.get() + 1);
    io.state.set_sent();
    channel.mark_dirty();
    // SAFETY: the module channel is alive in phase Ready, this is its thread, and the I/O is the
    // module's from here to `done`.
    unsafe { (channel.submit)(channel.module.get(), io.abi()) };
}

/// The module had no resource: the I/O keeps its place at the front. It is sent again after `kick`,
/// after the next completion, or by a timer.
#[cold]
#[inline(never)]
pub(super) fn keep(channel: &Channel, io: Io) {
    channel.outstanding.set(channel.outstanding.get() - 1);
    if channel.bdev.is_removed() {
        return complete::finish(io, -libc::ENODEV); // as what waited when it was removed
    }
    channel.push_waiting_first(io, RETRY_NS);
}

/// Sends what waits, as far as the module takes it.
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
            break; // it came back at once
        }
    }
    leave(channel);
}

/// How long an I/O waits for a resource of the module that nothing tells of.
const RETRY_NS: u64 = 1_000_000;
