//! Last stage: the module ends an I/O; statistics; the client's callback; the I/O goes back to its
//! pool. Before: the module, or `parts` and `submit` for what never reached it.

use super::dispatch;
use super::io::Io;
use super::reset;
use drivebay_plugin_api::{BAY_OP_RESET, BAY_ST_NOMEM, BAY_ST_REQUEUE, bay_io};

/// `bay_io.done`: the module ends an I/O.
pub(super) unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    // SAFETY: the module passes back what it was given, once.
    let io = unsafe { Io::from_abi(io) };
    let channel = io.channel();
    let mut flags = io.flags.get();
    if !flags.sent {
        tracing::error!(
            bdev = channel.bdev.name,
            "the module completed an I/O that it did not have; ignored"
        );
        return;
    }
    flags.sent = false;
    io.flags.set(flags);
    channel.outstanding.set(channel.outstanding.get() - 1);
    if status == BAY_ST_NOMEM || status == BAY_ST_REQUEUE {
        if io.request().op == BAY_OP_RESET {
            return reset::module_done(io, -libc::EIO); // a reset has nothing to wait for
        }
        return dispatch::keep(channel, io);
    }
    if io.request().op == BAY_OP_RESET {
        return reset::module_done(io, status);
    }
    finish(io, status);
    if !channel.waiting.is_empty() {
        dispatch::resume(channel);
    }
}

/// Ends an I/O towards its client.
pub(super) fn finish(io: Io, status: i32) {
    let channel = io.channel();
    if !io.flags.get().part {
        channel.stats.count(io, status);
    }
    if let Some(cb) = io.cb.take() {
        // SAFETY: callback and argument came together with the submit; this is its thread.
        unsafe { cb(io.arg.get(), io.abi(), status) };
    }
    channel.give_back(io);
}
