//! Reset: the bus holds the I/O of every channel, then the module resets (or the bus waits until no
//! I/O is in flight), then the I/O continues. A bdev does one reset at a time; a second one waits.

use super::{complete, dispatch};
use crate::bdev::state::{Gate, Io, Phase, SentIo, on_channels};
use crate::reactor::thread;
use drivebay_plugin_api::BAY_OP_RESET;
use std::sync::Arc;

/// Starts a reset that a client submitted.
pub(super) fn begin(io: Io) {
    io.state.set_reset();
    let channel = io.channel();
    if channel.phase.get() == Phase::Failed {
        return complete::finish(io, channel.failure.get());
    }
    let bdev = Arc::clone(&channel.bdev);
    let io = SentIo::new(io);
    if channel.phase.get() == Phase::Creating || !bdev.begin_reset() {
        // The channel is not ready yet, or another reset is under way. This reset tries again later.
        return thread::send_boxed(thread::current_id(), move || again(io));
    }
    on_channels(&bdev, |channel| channel.gate.set(Gate::RESET), move |_| held(io));
}

fn again(io: SentIo) {
    begin(io.get());
}

fn held(io: SentIo) {
    let channel = io.get().channel();
    if channel.limits.declared(BAY_OP_RESET) {
        return dispatch::enter(channel, io.get()); // then `module_done`
    }
    drain(io);
}

/// Checks again and again until no channel has I/O at the module, then ends the reset.
fn drain(io: SentIo) {
    let bdev = Arc::clone(&io.get().channel().bdev);
    if bdev.has_failed() {
        return end(io, -libc::EIO); // quarantined I/O may never complete
    }
    on_channels(
        &bdev,
        |channel| channel.outstanding.get(),
        move |outstanding| {
            if outstanding.iter().all(|&count| count == 0) {
                end(io, 0);
            } else {
                drain(io);
            }
        },
    );
}

/// The module has completed the reset.
pub(super) fn module_done(io: Io, status: i32) {
    end(SentIo::new(io), status);
}

fn end(io: SentIo, status: i32) {
    let bdev = Arc::clone(&io.get().channel().bdev);
    bdev.end_reset();
    on_channels(
        &bdev,
        |channel| {
            channel.gate.clear(Gate::RESET);
            dispatch::resume(channel);
        },
        move |_| finished(io, status),
    );
}

fn finished(io: SentIo, status: i32) {
    complete::finish(io.get(), status);
}
