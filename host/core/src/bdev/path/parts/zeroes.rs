//! Write zeroes, for a module that does not declare it: writes from one buffer of zeroes.

use super::part::{note_failure, part};
use super::size::in_units;
use crate::bdev::path::{complete, submit};
use crate::bdev::state::Io;
use crate::env::memory;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::sync::OnceLock;

pub(super) fn next(parent: Io) {
    let (request, begun) = (parent.request(), parent.progress.get());
    if begun == request.nblocks || parent.failure.get() != 0 {
        return complete::finish(parent, parent.failure.get());
    }
    let Some((addr, region)) = zeroes() else { return complete::finish(parent, -libc::ENOMEM) };
    let limits = &parent.channel().limits;
    let (block, md_size) = (limits.block_size, u64::from(limits.md_size));
    let most = ZEROES as u64 / u64::from(block).max(md_size);
    let most = in_units(parent.channel(), BAY_OP_WRITE, most);
    let (lba, flags, len) =
        (request.lba + begun, request.flags, (request.nblocks - begun).min(most));
    let child = part(parent, BAY_OP_WRITE, zeroes_done);
    let bytes = u32::try_from(len * u64::from(block)).unwrap_or(0);
    let mut list = child.list.borrow_mut();
    list.clear();
    list.push(bay_iov { addr, len: bytes, region });
    let iov = list.as_ptr();
    drop(list);
    child.change(|request| {
        request.flags = flags;
        request.lba = lba;
        request.nblocks = len;
        request.iov = iov;
        request.iovcnt = 1;
        if md_size != 0 {
            request.md = addr;
            request.md_len = u32::try_from(len * md_size).unwrap_or(0);
            request.md_region = region;
        }
    });
    submit::submit(child);
}

unsafe extern "C" fn zeroes_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    // SAFETY: the I/O is alive until its callback returns.
    let child = unsafe { Io::from_abi(child) };
    if status != 0 {
        note_failure(parent, child, status);
    }
    parent.progress.set(parent.progress.get() + child.request().nblocks);
    next(parent);
}

/// The size of the buffer of zeroes, in bytes.
const ZEROES: usize = 1 << 20;

/// A buffer of zeroes that nobody writes to, with its region. `None` when there is no memory for
/// it.
fn zeroes() -> Option<(*mut c_void, u32)> {
    static ZERO: OnceLock<Option<(usize, u32)>> = OnceLock::new();
    let (addr, region) = (*ZERO.get_or_init(|| {
        memory::alloc(ZEROES, 4096).ok().map(|(base, region)| (base.as_ptr() as usize, region))
    }))?;
    Some((addr as *mut c_void, region))
}
