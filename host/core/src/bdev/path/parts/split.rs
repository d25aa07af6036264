//! Split: the parts of an I/O all at once, each with a slice of its list.

use super::part::{note_failure, part, slice};
use super::size::{in_units, next_data_part, smallest};
use crate::bdev::path::{complete, submit};
use crate::bdev::state::Io;
use drivebay_plugin_api::*;
use std::ffi::c_void;

pub(super) fn begin(parent: Io) {
    let channel = parent.channel();
    let (op, flags, lba, nblocks) = {
        let request = parent.request();
        (request.op, request.flags, request.lba, request.nblocks)
    };
    // Counts one extra part, so that parts that complete at once do not complete the parent.
    parent.pending.set(1);
    let mut begun = 0;
    while begun < nblocks {
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
        begun += len;
        submit::submit(child);
    }
    complete_part(parent);
}

unsafe extern "C" fn split_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its parts.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
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
