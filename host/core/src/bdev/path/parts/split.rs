//! Split: the parts of an I/O all at once, each with a slice of its list. The parts of a write to a zoned bdev go one after
//! another, because a zone is written in order and a device may execute commands in any order.

use super::part::{note_failure, part, slice};
use super::size::{in_units, next_data_part, smallest};
use crate::bdev::path::{complete, submit};
use crate::bdev::state::Io;
use drivebay_plugin_api::*;
use std::ffi::c_void;

pub(super) fn begin(parent: Io) {
    // Counts one extra part, so that parts that complete at once do not complete the parent.
    parent.pending.set(1);
    let nblocks = parent.request().nblocks;
    if is_in_order(parent) {
        send_next(parent);
    } else {
        while parent.progress.get() < nblocks {
            send_next(parent);
        }
    }
    complete_part(parent);
}

fn is_in_order(parent: Io) -> bool {
    let writes = matches!(parent.request().op, BAY_OP_WRITE | BAY_OP_WRITE_ZEROES);
    writes && parent.channel().limits.zone_size != 0
}

fn send_next(parent: Io) {
    let (channel, begun) = (parent.channel(), parent.progress.get());
    let (op, flags, lba, nblocks) = {
        let request = parent.request();
        (request.op, request.flags, request.lba, request.nblocks)
    };
    let len = match op {
        BAY_OP_UNMAP => in_units(channel, op, channel.limits.max_unmap.into()),
        BAY_OP_WRITE_ZEROES => in_units(channel, op, channel.limits.max_write_zeroes.into()),
        // If the pieces are smaller than the module takes, the part goes through a buffer.
        _ => next_data_part(channel, parent, begun).max(smallest(channel, op)),
    }
    .min(nblocks - begun);
    let child = part(parent, op, split_done);
    if matches!(op, BAY_OP_READ | BAY_OP_WRITE) {
        slice(parent, child, begun, len);
    }
    child.change(|request| {
        request.flags = flags;
        request.lba = lba + begun;
        request.nblocks = len;
    });
    parent.pending.set(parent.pending.get() + 1);
    parent.progress.set(begun + len);
    submit::submit(child);
}

unsafe extern "C" fn split_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its parts.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
    } else if is_in_order(parent) && parent.progress.get() < parent.request().nblocks {
        send_next(parent);
    }
    complete_part(parent);
}

fn complete_part(parent: Io) {
    let left = parent.pending.get() - 1;
    parent.pending.set(left);
    if left == 0 {
        complete::finish(parent, parent.failure.get());
    }
}
