//! Last stage: the module ends an I/O; statistics; the way back through the filters that passed it
//! on; the client's callback; the I/O goes back to its pool. Before: the module, or `parts` and
//! `submit` for what never reached it.

use super::io::Io;
use super::stats::Tally;
use super::{dispatch, reset};
use drivebay_plugin_api::{BAY_OP_RESET, BAY_ST_NOMEM, BAY_ST_REQUEUE, bay_io};

/// `bay_io.done`: the module ends an I/O.
pub(super) unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    // SAFETY: the module passes back what it was given, once.
    let io = unsafe { Io::from_abi(io) };
    if !io.sent.replace(false) {
        return was_not_there(io);
    }
    let channel = io.channel();
    if status <= BAY_ST_NOMEM && (status == BAY_ST_NOMEM || status == BAY_ST_REQUEUE) {
        return dispatch::keep(channel, io);
    }
    channel.has_one_less();
    if io.request().op == BAY_OP_RESET {
        return reset::module_done(io, status);
    }
    if !io.is_plain() {
        return finish(io, status);
    }
    channel.stats.count(&Tally::of(io, status), io.submitted_ns.get());
    to_client(io, status);
}

#[cold]
#[inline(never)]
fn was_not_there(io: Io) {
    let bdev = &io.channel().bdev.name;
    tracing::error!(bdev, "the module completed an I/O that it did not have; ignored");
}

/// Ends an I/O that no module has, where it is, then at the filters that passed it on.
#[inline(never)]
pub(super) fn finish(io: Io, status: i32) {
    io.sent.set(false);
    let tally = Tally::of(io, status);
    let mut channel = io.channel();
    loop {
        if !io.is_part() {
            channel.stats.count(&tally, io.submitted_ns.get());
        }
        let Some(filter) = io.hop_back() else { break };
        filter.has_one_less();
        if io.request().op == BAY_OP_RESET {
            return reset::module_done(io, status);
        }
        channel = filter;
    }
    to_client(io, status);
}

#[inline]
fn to_client(io: Io, status: i32) {
    // SAFETY: callback and argument came together with the submit; this is its thread.
    unsafe { (io.cb.get())(io.arg.get(), io.abi(), status) };
    io.channel().give_back(io);
}
