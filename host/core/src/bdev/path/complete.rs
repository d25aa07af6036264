//! Last stage: the module completes an I/O. The bus counts it, passes the completion back through
//! the filters that passed the I/O on, calls the client's callback and returns the I/O to its pool.
//! Before this stage: the module, or `parts` and `submit` for I/O that never reached it.

use super::{dispatch, reset};
use crate::bdev::state::{Channel, Gate, Io, SentIo, Tally};
use crate::reactor::thread;
use drivebay_plugin_api::{BAY_ST_NOMEM, BAY_ST_REQUEUE, bay_io};
use std::sync::atomic::Ordering;

/// `bay_io.done`: the module completes an I/O.
pub(super) unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    // SAFETY: the module passes the I/O that it was given, once.
    let io = unsafe { Io::from_abi(io) };
    let channel = io.channel();
    if !channel.is_here() {
        return done_on_wrong_thread(channel, io, status);
    }
    if !is_straight(channel, io, status) {
        return slow_path(channel, io, status);
    }
    io.state.clear_sent();
    channel.outstanding.set(channel.outstanding.get() - 1);
    let tally = Tally::of_usual(io.request());
    channel.stats.count(&tally, io.submitted_ns.get());
    while io.is_passed() {
        let Some(filter) = io.hop_back_if(|filter| !filter.gate.has(Gate::WAITED | Gate::LEFT))
        else {
            return back_through_filters(io, 0);
        };
        filter.outstanding.set(filter.outstanding.get() - 1);
        filter.stats.count(&tally, io.submitted_ns.get());
    }
    to_client(io, 0);
}

/// A module completed an I/O on the wrong thread, which is not allowed. The log reports this once
/// for each bdev, and the bus sends the completion to the I/O's own thread.
#[cold]
fn done_on_wrong_thread(channel: &Channel, io: Io, status: i32) {
    let bdev = &channel.bdev;
    if !bdev.reported_wrong_thread.swap(true, Ordering::Relaxed) {
        tracing::error!(
            "bdev {} ({}): its module completed an I/O on another thread, not on the one that submitted it. The bus sends this and \
             later ones to the right threads, which costs time",
            bdev.name,
            bdev.product,
        );
    }
    let sent = SentIo::new(io);
    thread::send_boxed(channel.thread, move || {
        // SAFETY: the module completed the I/O once, and this is the I/O's thread.
        unsafe { done(sent.get().abi(), status) }
    });
}

/// Whether this is the usual completion: it is a success and nothing waits for it. `slow_path`
/// handles every case; this check keeps the usual one short.
#[inline]
fn is_straight(channel: &Channel, io: Io, status: i32) -> bool {
    status == 0 && io.state.is_just_sent() && !channel.gate.has(Gate::WAITED | Gate::LEFT)
}

#[inline(never)]
fn slow_path(channel: &Channel, io: Io, status: i32) {
    if !io.state.is_sent() {
        let bdev = &channel.bdev.name;
        return tracing::error!(bdev, "the module completed an I/O that it does not own; ignored");
    }
    io.state.clear_sent();
    let again = status == BAY_ST_NOMEM || status == BAY_ST_REQUEUE;
    if io.state.is_reset() {
        channel.count_completion();
        return reset::module_done(io, if again { -libc::EIO } else { status }); // a reset cannot wait for resources
    }
    if again {
        return dispatch::requeue(channel, io);
    }
    channel.count_completion();
    finish(io, status);
    if channel.gate.has(Gate::WAITED) {
        dispatch::resume(channel);
    }
}

/// Completes an I/O that is not at a module: first on its own channel, then at the filters that
/// passed it on.
#[inline(never)]
pub(super) fn finish(io: Io, status: i32) {
    io.state.clear_sent();
    if !io.is_part() {
        io.channel().stats.count(&Tally::of(io.request(), status), io.submitted_ns.get());
    }
    if io.state.is_reset()
        && let Some(filter) = io.hop_back()
    {
        // The filter's bdev is being reset, too, and is held until that reset has ended.
        filter.count_completion();
        return reset::module_done(io, status);
    }
    back_through_filters(io, status);
}

/// Completes an I/O at the filters that passed it on, the innermost first, and then calls its
/// client.
#[inline(never)]
fn back_through_filters(io: Io, status: i32) {
    let tally = Tally::of(io.request(), status);
    while let Some(filter) = io.hop_back() {
        filter.count_completion();
        if !io.is_part() {
            filter.stats.count(&tally, io.submitted_ns.get());
        }
    }
    to_client(io, status);
}

#[inline]
fn to_client(io: Io, status: i32) {
    // SAFETY: the client passed the callback and its argument together, and this is the client's
    // thread.
    unsafe { (io.cb.get())(io.arg.get(), io.abi(), status) };
    io.channel().give_back(io);
}
