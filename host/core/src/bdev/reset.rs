//! Reset: the I/O of every channel is held, the module resets (or the bus waits until nothing is in
//! flight), then the I/O goes on. One at a time per bdev; a second one waits for its turn.

use super::channel::{Channel, Gate, Phase};
use super::io::Io;
use super::{complete, device::Bdev, dispatch};
use crate::reactor::thread;
use drivebay_plugin_api::BAY_OP_RESET;
use std::sync::Arc;

/// An I/O on its way over other threads and back.
#[derive(Clone, Copy)]
struct Travelling(Io);

// SAFETY: only carried; it is used on its own thread again.
unsafe impl Send for Travelling {}

/// Begins a reset that a client submitted.
pub(super) fn begin(io: Io) {
    let bdev = Arc::clone(&io.channel().bdev);
    let io = Travelling(io);
    if !bdev.begin_reset() {
        // Another one is under way: this one tries again after it.
        return thread::send_boxed(thread::current_id(), move || again(io));
    }
    on_channels(&bdev, |channel| channel.gate.set(Gate::HELD), move |_| held(io));
}

fn again(io: Travelling) {
    begin(io.0);
}

/// Runs `visit` for the bdev's channel on every thread that has one, then `done` here.
fn on_channels<T: Send + 'static>(
    bdev: &Arc<Bdev>,
    visit: impl Fn(&Channel) -> T + Send + Sync + 'static,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    let bdev = Arc::clone(bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.of(&bdev).map(&visit)).flatten(),
        move |results| done(results.into_iter().flatten().collect()),
    );
}

fn held(io: Travelling) {
    let channel = io.0.channel();
    if channel.limits.declared(BAY_OP_RESET) {
        return dispatch::hand_over(channel, io.0); // then `module_done`
    }
    drain(io);
}

/// Looks again until no channel has I/O at the module.
fn drain(io: Travelling) {
    let bdev = Arc::clone(&io.0.channel().bdev);
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

/// The module has reset.
pub(super) fn module_done(io: Io, status: i32) {
    end(Travelling(io), status);
}

fn end(io: Travelling, status: i32) {
    let bdev = Arc::clone(&io.0.channel().bdev);
    bdev.end_reset();
    on_channels(
        &bdev,
        |channel| {
            if channel.phase.get() == Phase::Ready {
                channel.gate.clear(Gate::HELD);
            }
            dispatch::resume(channel);
        },
        move |_| finished(io, status),
    );
}

fn finished(io: Travelling, status: i32) {
    complete::finish(io.0, status);
}
