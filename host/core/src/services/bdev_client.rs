//! The plugin interface `bay.bdev_client/1`: the client's side of bdevs.

use super::{failed, on_app_thread, status, string};
use crate::bdev::path::{self, channel_life, round};
use crate::bdev::state::{self, Io};
use crate::bdev::{self, Claim, desc, events};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;

/// Length of a `bay_bdev_info` that says whether a bdev is zoned, in bytes.
const ZONE_SIZE_END: usize = offset_of!(bay_bdev_info, zone_size) + size_of::<u64>();

pub(super) static TABLE: bay_bdev_client_api = bay_bdev_client_api {
    size: size_of_table::<bay_bdev_client_api>(),
    flags: 0,
    open: Some(open),
    close: Some(close),
    info: Some(info),
    claim: Some(claim),
    unclaim: Some(unclaim),
    chan_get: Some(chan_get),
    chan_put: Some(chan_put),
    io_get: Some(io_get),
    io_put: Some(io_put),
    io_derive: Some(io_derive),
    submit: Some(submit),
    complete_from: Some(complete_from),
    flush: Some(flush),
    pass: Some(pass),
    io_abort: Some(io_abort),
    io_derive_part: Some(io_derive_part),
    media_next: Some(media_next),
};

unsafe extern "C" fn open(
    host: *const bay_host,
    name: bay_str,
    flags: u32,
    event: Option<bay_bdev_event_fn>,
    arg: *mut c_void,
    desc: *mut u64,
) -> i32 {
    if let Err(error) = on_app_thread() {
        return error.status();
    }
    // SAFETY: the text is valid for the call.
    let name = unsafe { string(name) };
    match desc::open(host as usize, &name, flags & BAY_OPEN_WRITE != 0, event, arg) {
        Ok(opened) => {
            // SAFETY: the caller passes a valid pointer for the handle.
            unsafe { desc.write(opened.id) };
            0
        }
        Err(error) => failed(&error),
    }
}

unsafe extern "C" fn close(_host: *const bay_host, desc: u64) -> i32 {
    status(on_app_thread().and_then(|()| desc::close(desc)))
}

unsafe extern "C" fn info(_host: *const bay_host, desc: u64, info: *mut bay_bdev_info) -> i32 {
    let desc = match desc::by_id(desc) {
        Ok(desc) => desc,
        Err(error) => return failed(&error),
    };
    let (bdev, record) = (&desc.bdev, &desc.bdev.record);
    let space = bdev.space();
    let mut full = bay_bdev_info {
        size: 0,
        flags: record.flags,
        num_blocks: bdev.num_blocks(),
        block_size: record.block_size,
        phys_block_size: record.phys_block_size.max(record.block_size),
        ops_mask: bdev.ops_allowed(),
        uuid: bdev.uuid,
        write_unit: record.write_unit.max(1),
        atomic_write_unit: record.atomic_write_unit.max(1),
        align: record.align.max(1),
        optimal_boundary: record.optimal_boundary,
        md_size: record.md_size,
        md_interleave: record.md_interleave,
        dif_type: record.dif_type,
        dif_is_head: record.dif_is_head,
        dif_pi_format: record.dif_pi_format,
        numa: record.numa,
        must_flags: BAY_IO_FUA,
        name: bay_str { ptr: bdev.name.as_ptr(), len: bdev.name.len() },
        pool_blocks: space.total,
        pool_free: space.free,
        zone_size: record.zone_size,
        max_open_zones: record.max_open_zones,
        max_active_zones: record.max_active_zones,
        optimal_open_zones: record.optimal_open_zones,
        max_zone_append: bdev.max_zone_append(),
    };
    // SAFETY: an open struct begins with its size, which the caller has set.
    let theirs = unsafe { info.cast::<u32>().read() };
    full.size = theirs.min(size_of_table::<bay_bdev_info>());
    if record.zone_size != 0 && (full.size as usize) < ZONE_SIZE_END {
        // The caller was built before zones, and would take the bdev for an ordinary disk.
        return -libc::ENOTSUP;
    }
    // SAFETY: the caller's struct is `size` bytes long.
    unsafe {
        ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), info.cast(), full.size as usize);
    }
    0
}

unsafe extern "C" fn media_next(
    _host: *const bay_host,
    desc: u64,
    lba: *mut u64,
    nblocks: *mut u64,
) -> i32 {
    let Some((first, count)) = events::media_next(desc) else { return -libc::ENOENT };
    // SAFETY: the caller passes a valid pointer for the first block.
    unsafe { lba.write(first) };
    // SAFETY: the caller passes a valid pointer for the number of blocks.
    unsafe { nblocks.write(count) };
    0
}

unsafe extern "C" fn claim(_host: *const bay_host, desc: u64, kind: u32, key: u64) -> i32 {
    match Claim::from_abi(kind) {
        Some(kind) => status(on_app_thread().and_then(|()| bdev::claim(desc, kind, key))),
        None => -libc::EINVAL,
    }
}

unsafe extern "C" fn unclaim(_host: *const bay_host, desc: u64) -> i32 {
    status(on_app_thread().and_then(|()| bdev::unclaim(desc)))
}

unsafe extern "C" fn chan_get(_host: *const bay_host, desc: u64, chan: *mut u64) -> i32 {
    match desc::by_id(desc).and_then(|desc| channel_life::get(&desc)) {
        Ok(handle) => {
            // SAFETY: the caller passes a valid pointer for the handle.
            unsafe { chan.write(handle) };
            0
        }
        Err(error) => failed(&error),
    }
}

unsafe extern "C" fn chan_put(_host: *const bay_host, chan: u64) -> i32 {
    status(state::put(chan))
}

unsafe extern "C" fn io_get(_host: *const bay_host, chan: u64, wait: *mut bay_wait) -> *mut bay_io {
    // SAFETY: the caller keeps the waiter valid until its callback.
    unsafe { state::io_get(chan, wait) }.map_or(ptr::null_mut(), Io::abi)
}

unsafe extern "C" fn io_put(_host: *const bay_host, io: *mut bay_io) {
    // SAFETY: the caller got it from `io_get` and has not submitted it.
    unsafe { Io::from_abi(io) }.give_back();
}

unsafe extern "C" fn io_derive(
    _host: *const bay_host,
    chan: u64,
    parent: *mut bay_io,
) -> *mut bay_io {
    // SAFETY: the caller owns the parent: the bus gave it to the module.
    let parent = unsafe { Io::from_abi(parent) };
    path::derive(chan, parent).map_or(ptr::null_mut(), Io::abi)
}

unsafe extern "C" fn io_derive_part(
    _host: *const bay_host,
    chan: u64,
    parent: *mut bay_io,
    first: u64,
    nblocks: u64,
) -> *mut bay_io {
    // SAFETY: the caller owns the parent: the bus gave it to the module.
    let parent = unsafe { Io::from_abi(parent) };
    path::derive_part(chan, parent, first, nblocks).map_or(ptr::null_mut(), Io::abi)
}

unsafe extern "C" fn submit(
    _host: *const bay_host,
    io: *mut bay_io,
    cb: Option<bay_io_cb_fn>,
    arg: *mut c_void,
) {
    // SAFETY: the caller got the I/O from `io_get` or `io_derive` and gives it away here.
    let io = unsafe { Io::from_abi(io) };
    io.set_callback(cb, arg);
    path::submit(io);
}

unsafe extern "C" fn complete_from(
    _host: *const bay_host,
    parent: *mut bay_io,
    child: *mut bay_io,
    status: i32,
) {
    // SAFETY: the caller owns the parent: the bus gave it to the module.
    let parent = unsafe { Io::from_abi(parent) };
    // SAFETY: the child's callback is running, so the child is alive.
    path::complete_from(parent, unsafe { Io::from_abi(child) }, status);
}

unsafe extern "C" fn flush(_host: *const bay_host, chan: u64) {
    round::end_burst(chan);
}

unsafe extern "C" fn pass(_host: *const bay_host, chan: u64, io: *mut bay_io, lba: u64) {
    // SAFETY: the caller owns the I/O, which the bus gave to the module, and gives it away here.
    path::pass(chan, unsafe { Io::from_abi(io) }, lba);
}

unsafe extern "C" fn io_abort(_host: *const bay_host, chan: u64, wait: *mut bay_wait) -> i32 {
    if state::io_abort(chan, wait) { 0 } else { -libc::ENOENT }
}
