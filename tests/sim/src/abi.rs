//! The host's tables, as a plugin sees them, and safe calls of them.
//!
//! Every call passes [`host`]: the host only compares its address and never follows it. The host looks
//! up handles (`u64`) and refuses or ignores a wrong one, so a call that passes only handles is always
//! sound.
//!
//! # Invariant
//! Every `*mut bay_io` of this crate comes from the bus, and only its borrower uses it: a client from
//! `io_get` to `submit` and inside its callback, a module from its `submit` to `done`. The borrower
//! drops the pointer when it passes the I/O on or completes it. One OS thread runs everything.

use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;

/// The host handle of the plugin that owns everything here.
pub(crate) fn host() -> *const bay_host {
    ptr::without_provenance(0x51a0)
}

pub(crate) fn bus() -> &'static bay_bdev_api {
    // SAFETY: the host's table of this id is a static `bay_bdev_api`.
    unsafe { &*services::table(id::BDEV).unwrap().cast() }
}

pub(crate) fn client() -> &'static bay_bdev_client_api {
    // SAFETY: the host's table of this id is a static `bay_bdev_client_api`.
    unsafe { &*services::table(id::BDEV_CLIENT).unwrap().cast() }
}

pub(crate) fn threads() -> &'static bay_thread_api {
    // SAFETY: the host's table of this id is a static `bay_thread_api`.
    unsafe { &*services::table(id::THREAD).unwrap().cast() }
}

pub(crate) fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// An open struct with zero in all fields, which means that they are absent.
pub(crate) fn zeroed<T: Open>() -> T {
    // SAFETY: `Open` promises that all zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

/// Copies the fields of an I/O that the caller has borrowed.
pub(crate) fn fields(io: *mut bay_io) -> bay_io {
    // SAFETY: the bus keeps a borrowed I/O alive, and nobody else writes it meanwhile (invariant).
    unsafe { *io }
}

/// Completes a request of the bus.
pub(crate) fn end(io: *mut bay_io, status: i32) {
    let done = fields(io).done.unwrap();
    // SAFETY: the module has borrowed `io` (invariant) and gives it back here, once.
    unsafe { done(io, status) };
}

/// Derives a child on another channel from a borrowed I/O.
pub(crate) fn derive(chan: u64, parent: *mut bay_io) -> *mut bay_io {
    let derive = client().io_derive.unwrap();
    // SAFETY: the module has borrowed `parent` (invariant).
    let child = unsafe { derive(host(), chan, parent) };
    assert!(!child.is_null(), "no child within `max_children`");
    child
}

/// Submits an I/O. `arg` must be valid for `ended` until the I/O completes.
pub(crate) fn submit(io: *mut bay_io, ended: bay_io_cb_fn, arg: *mut c_void) {
    let submit = client().submit.unwrap();
    // SAFETY: the caller has borrowed `io` and gives it back here (invariant). `arg` is a request in its
    // client's `in_flight`, or the parent of `io`: each stays alive until its I/O completes.
    unsafe { submit(host(), io, Some(ended), arg) };
}

pub(crate) fn put_chan(chan: u64) {
    // SAFETY: the call passes only a handle.
    let status = unsafe { client().chan_put.unwrap()(host(), chan) };
    assert_eq!(status, 0, "chan_put");
}

pub(crate) fn close(desc: u64) {
    // SAFETY: the call passes only a handle.
    let status = unsafe { client().close.unwrap()(host(), desc) };
    assert_eq!(status, 0, "close");
}

/// Opens a bdev. `arg` must be valid for `event` until the descriptor is closed.
pub(crate) fn open(name: &str, event: bay_bdev_event_fn, arg: *mut c_void) -> Result<u64, i32> {
    let mut desc = 0;
    let open = client().open.unwrap();
    let name = bay_str::new(name);
    // SAFETY: the name and `desc` are valid during the call. `arg` is a `Top` or a `Filter`, which the
    // simulation frees only when no descriptor is left, or null for a function that ignores it.
    match unsafe { open(host(), name, BAY_OPEN_WRITE, Some(event), arg, &raw mut desc) } {
        0 => Ok(desc),
        errno => Err(errno),
    }
}

pub(crate) fn get_chan(desc: u64) -> Result<u64, i32> {
    let mut chan = 0;
    // SAFETY: `chan` is writable during the call.
    match unsafe { client().chan_get.unwrap()(host(), desc, &raw mut chan) } {
        0 => Ok(chan),
        errno => Err(errno),
    }
}

/// Changes the size of a bdev. Returns 0 or a negative errno.
pub(crate) fn resize(id: u64, num_blocks: u64) -> i32 {
    // SAFETY: the call passes only a handle and a number.
    unsafe { bus().resize.unwrap()(host(), id, num_blocks) }
}
