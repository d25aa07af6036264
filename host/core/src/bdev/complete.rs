//! Last stage: the module ends an I/O; statistics; the way back through the filters that passed it
//! on; the client's callback; the I/O goes back to its pool. Before: the module, or `parts` and
//! `submit` for what never reached it.

use super::io::Io;
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
    if status == BAY_ST_NOMEM || status == BAY_ST_REQUEUE {
        channel.outstanding.set(channel.outstanding.get() - 1);
        return dispatch::keep(channel, io);
    }
    left_module(io, status);
}

#[cold]
fn was_not_there(io: Io) {
    let bdev = &io.channel().bdev.name;
    tracing::error!(bdev, "the module completed an I/O that it did not have; ignored");
}

/// The module has nothing to do with the I/O any more.
#[inline]
fn left_module(io: Io, status: i32) {
    io.channel().has_one_less();
    if io.request().op == BAY_OP_RESET {
        return reset::module_done(io, status);
    }
    finish(io, status);
}

/// Ends an I/O that no module has, where it is; then, if filters have passed it on, at each of them.
#[inline]
pub(super) fn finish(io: Io, status: i32) {
    loop {
        if !io.is_part() {
            io.channel().stats.count(io, status);
        }
        if io.hop_back().is_none() {
            break;
        }
        io.channel().has_one_less();
        if io.request().op == BAY_OP_RESET {
            return reset::module_done(io, status);
        }
    }
    if let Some(cb) = io.cb.get() {
        // SAFETY: callback and argument came together with the submit; this is its thread.
        unsafe { cb(io.arg.get(), io.abi(), status) };
    }
    io.channel().give_back(io);
}
