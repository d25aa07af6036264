//! A part: an I/O on the same channel that does some of its parent's work.

use crate::bdev::state::Io;
use drivebay_plugin_api::*;
use std::ptr;

/// Creates a part of `parent` with the op `op` and without flags, lists and position.
pub(super) fn part(parent: Io, op: u16, cb: bay_io_cb_fn) -> Io {
    let child = parent.channel().pool.get(parent.channel());
    child.begin(parent.writable.get(), true);
    child.set_callback(Some(cb), parent.into_arg());
    let (ext, prio) = (parent.request().ext, parent.request().prio);
    child.change(|request| {
        request.op = op;
        request.flags = 0;
        request.iov = ptr::null();
        request.iovcnt = 0;
        request.lba = 0;
        request.nblocks = 0;
        request.ext = ext;
        request.prio = prio;
        request.arg = [0; 2];
        request.arg_len = 0;
    });
    child
}

/// Keeps the status and the detail of the first part that failed.
pub(super) fn note_failure(parent: Io, child: Io, status: i32) {
    if parent.failure.get() == 0 {
        parent.failure.set(status);
        copy_detail(parent, child);
    }
}

/// Gives the parent the detail of its child.
pub(super) fn copy_detail(parent: Io, child: Io) {
    let (detail, kind) = (child.request().detail, child.request().detail_kind);
    parent.change(|request| {
        request.detail = detail;
        request.detail_kind = kind;
    });
}

/// Gives `child` the slices of the parent's list and metadata for `len` blocks from block `begun`.
/// The child owns the list's memory and reuses it.
pub(in crate::bdev::path) fn slice(parent: Io, child: Io, begun: u64, len: u64) {
    slice_metadata(parent, child, begun, len);
    let block = u64::from(parent.channel().limits.block_size);
    let (mut skip, mut left) = (begun * block, len * block);
    let mut list = child.list.borrow_mut();
    list.clear();
    for element in parent.iov() {
        let here = u64::from(element.len);
        if skip >= here {
            skip -= here;
            continue;
        }
        if left == 0 {
            break;
        }
        let take = (here - skip).min(left);
        let offset = usize::try_from(std::mem::take(&mut skip)).unwrap_or(0);
        left -= take;
        list.push(bay_iov {
            addr: element.addr.wrapping_byte_add(offset),
            len: u32::try_from(take).unwrap_or(u32::MAX),
            region: element.region,
        });
    }
    let (iov, count) = (list.as_ptr(), list.len());
    drop(list);
    child.change(|request| {
        request.iov = iov;
        request.iovcnt = u16::try_from(count).unwrap_or(u16::MAX);
    });
}

pub(super) fn slice_metadata(parent: Io, child: Io, begun: u64, len: u64) {
    let (md, size) = (parent.request().md, u64::from(parent.channel().limits.md_size));
    if md.is_null() {
        return;
    }
    child.change(|request| {
        request.md = md.wrapping_byte_add(usize::try_from(begun * size).unwrap_or(usize::MAX));
        request.md_len = u32::try_from(len * size).unwrap_or(u32::MAX);
        request.md_region = parent.request().md_region;
    });
}
