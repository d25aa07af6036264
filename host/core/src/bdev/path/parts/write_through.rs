//! Write through, for a module with a cache and without FUA: the write, then a flush.

use super::part::{copy_detail, note_failure, part, slice_metadata};
use crate::bdev::path::{complete, submit};
use crate::bdev::state::Io;
use drivebay_plugin_api::*;
use std::ffi::c_void;

pub(super) fn begin(parent: Io) {
    let child = part(parent, parent.request().op, write_done);
    let (lba, nblocks, iov, iovcnt, flags) = {
        let request = parent.request();
        (request.lba, request.nblocks, request.iov, request.iovcnt, request.flags)
    };
    child.change(|request| {
        request.flags = flags & !BAY_IO_FUA;
        request.lba = lba;
        request.nblocks = nblocks;
        request.iov = iov;
        request.iovcnt = iovcnt;
    });
    slice_metadata(parent, child, 0, nblocks);
    submit::submit(child);
}

unsafe extern "C" fn write_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    // SAFETY: the I/O is alive until its callback returns.
    let child = unsafe { Io::from_abi(child) };
    if status != 0 {
        note_failure(parent, child, status);
        return complete::finish(parent, status);
    }
    copy_detail(parent, child); // where an append wrote
    let flush = part(parent, BAY_OP_FLUSH, flush_done);
    submit::submit(flush);
}

unsafe extern "C" fn flush_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
    }
    complete::finish(parent, status);
}
