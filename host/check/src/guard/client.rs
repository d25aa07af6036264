//! `bay.bdev_client/1` for a guarded plugin: a filter's children are derived from the bus's request
//! behind the guard's request, and the plugin's callbacks are watched.

use super::core;
use super::request;
use crate::calls::{self, Call};
use drivebay_plugin_api::*;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The callbacks of open descriptors, by handle.
static EVENTS: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());

pub(super) static TABLE: LazyLock<bay_bdev_client_api> = LazyLock::new(|| bay_bdev_client_api {
    open: Some(open),
    close: Some(close),
    io_derive: Some(io_derive),
    io_derive_part: Some(io_derive_part),
    submit: Some(submit),
    complete_from: Some(complete_from),
    pass: Some(pass),
    ..*core::client()
});

/// A callback for events, and its argument.
type OnEvent = (Option<bay_bdev_event_fn>, *mut c_void);
/// A callback for the completion of an I/O, and its argument.
type OnEnd = (bay_io_cb_fn, *mut c_void);

unsafe extern "C" fn open(
    host: *const bay_host,
    name: bay_str,
    flags: u32,
    event: Option<bay_bdev_event_fn>,
    arg: *mut c_void,
    desc: *mut u64,
) -> i32 {
    let _host = calls::leave();
    let Some(open) = core::client().open else { return -libc::ENOSYS };
    let on_event: *mut OnEvent = Box::into_raw(Box::new((event, arg)));
    // SAFETY: forwards the call, with the plugin's callback in a box of the guard.
    let status = unsafe { open(host, name, flags, Some(on_bdev_event), on_event.cast(), desc) };
    if status == 0 {
        // SAFETY: the plugin passes a valid pointer, which the host has filled.
        let handle = unsafe { desc.read() };
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        events.insert(handle, on_event as usize);
    } else {
        // SAFETY: a refused call does not keep the box.
        drop(unsafe { Box::from_raw(on_event) });
    }
    status
}

unsafe extern "C" fn on_bdev_event(arg: *mut c_void, event: u32, value: u64) {
    // SAFETY: the box comes from `open` and lives until `close`. It is copied, because the callback
    // may close the descriptor.
    let (call, arg) = unsafe { *arg.cast::<OnEvent>() };
    if let Some(call) = call {
        let _entered = calls::enter(Call::Event);
        // SAFETY: these are the plugin's function and argument, while the descriptor is open.
        unsafe { call(arg, event, value) };
    }
}

unsafe extern "C" fn close(host: *const bay_host, desc: u64) -> i32 {
    let _host = calls::leave();
    let Some(close) = core::client().close else { return -libc::ENOSYS };
    // SAFETY: forwards the call.
    let status = unsafe { close(host, desc) };
    if status == 0 {
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_event) = events.remove(&desc) {
            // SAFETY: the box comes from `open`, and a closed descriptor gets no event.
            drop(unsafe { Box::from_raw(on_event as *mut OnEvent) });
        }
    }
    status
}

unsafe extern "C" fn io_derive(
    host: *const bay_host,
    chan: u64,
    parent: *mut bay_io,
) -> *mut bay_io {
    // SAFETY: the plugin owns the request `parent`.
    let behind = unsafe { request::behind(parent) };
    let api = core::client();
    if let (Some(behind), Some(derive)) = (behind, api.io_derive) {
        // SAFETY: forwards the call, with the bus's own request.
        return unsafe { derive(host, chan, behind) };
    }
    // A request of the suite has no request of the bus behind it, so its fields are copied to a new
    // request of the bus.
    let Some(get) = api.io_get else { return ptr::null_mut() };
    // SAFETY: forwards the call; it passes no waiter.
    let child = unsafe { get(host, chan, ptr::null_mut()) };
    if !child.is_null() {
        // SAFETY: it is a request of the bus that we may fill.
        let to = unsafe { &mut *child };
        // SAFETY: the plugin owns the request.
        let from = unsafe { &*parent };
        let own = *to;
        *to = bay_io {
            done: own.done,
            drv_ctx: own.drv_ctx,
            link: own.link,
            id: own.id,
            detail: 0,
            detail_kind: BAY_DETAIL_NONE,
            ..*from
        };
    }
    child
}

unsafe extern "C" fn io_derive_part(
    host: *const bay_host,
    chan: u64,
    parent: *mut bay_io,
    first: u64,
    nblocks: u64,
) -> *mut bay_io {
    // SAFETY: the plugin owns the request `parent`.
    let behind = unsafe { request::behind(parent) };
    if let (Some(behind), Some(derive)) = (behind, core::client().io_derive_part) {
        // SAFETY: forwards the call, with the bus's own request.
        return unsafe { derive(host, chan, behind, first, nblocks) };
    }
    // SAFETY: the plugin owns the request.
    let whole = unsafe { &*parent };
    if first.checked_add(nblocks).is_none_or(|end| end > whole.nblocks) {
        return ptr::null_mut();
    }
    // SAFETY: forwards the call.
    let child = unsafe { io_derive(host, chan, parent) };
    if !child.is_null() && nblocks != whole.nblocks {
        // SAFETY: the suite keeps the list valid until the request completes.
        let list = unsafe { slice(whole, first, nblocks) };
        // SAFETY: it is a request of the bus that we may fill.
        let to = unsafe { &mut *child };
        to.iovcnt = u16::try_from(list.len()).unwrap_or(u16::MAX);
        to.iov = list.as_ptr();
    }
    child
}

/// The pieces of a request of the suite that hold `nblocks` of its blocks, from block `first` on.
/// They are never freed, because the suite sends few of them.
///
/// # Safety
/// The request's list is valid.
unsafe fn slice(whole: &bay_io, first: u64, nblocks: u64) -> &'static [bay_iov] {
    if whole.iov.is_null() {
        return &[];
    }
    // SAFETY: the caller guarantees this.
    let pieces = unsafe { std::slice::from_raw_parts(whole.iov, whole.iovcnt.into()) };
    let block = pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>() / whole.nblocks.max(1);
    let (mut skip, mut left) = (first * block, nblocks * block);
    let mut list = Vec::new();
    for piece in pieces {
        let begin = skip.min(piece.len.into());
        skip -= begin;
        let len = (u64::from(piece.len) - begin).min(left);
        left -= len;
        if len > 0 {
            let begin = usize::try_from(begin).unwrap_or(0);
            let len = u32::try_from(len).unwrap_or(0);
            let addr = piece.addr.wrapping_byte_add(begin);
            list.push(bay_iov { addr, len, region: piece.region });
        }
    }
    Vec::leak(list)
}

unsafe extern "C" fn submit(
    host: *const bay_host,
    io: *mut bay_io,
    cb: Option<bay_io_cb_fn>,
    arg: *mut c_void,
) {
    let _host = calls::leave();
    let Some(submit) = core::client().submit else { return };
    let (watched, arg): (Option<bay_io_cb_fn>, _) = match cb {
        Some(cb) => (Some(on_io_end), Box::into_raw(Box::<OnEnd>::new((cb, arg))).cast()),
        None => (None, arg),
    };
    // SAFETY: forwards the call, with the plugin's callback in a box of the guard.
    unsafe { submit(host, io, watched, arg) };
}

unsafe extern "C" fn on_io_end(arg: *mut c_void, io: *mut bay_io, status: i32) {
    // SAFETY: the box comes from `submit` and is taken back once.
    let (cb, arg) = *unsafe { Box::from_raw(arg.cast::<OnEnd>()) };
    let _entered = calls::enter(Call::IoCallback);
    // SAFETY: these are the plugin's function and argument, called once for its submit.
    unsafe { cb(arg, io, status) };
}

unsafe extern "C" fn complete_from(
    _host: *const bay_host,
    parent: *mut bay_io,
    child: *mut bay_io,
    status: i32,
) {
    // SAFETY: the child's callback is running, so the child is alive.
    let child = unsafe { &*child };
    // SAFETY: the plugin owns the request `parent`.
    let parent_ref = unsafe { &mut *parent };
    parent_ref.detail = child.detail;
    parent_ref.detail_kind = child.detail_kind;
    if let Some(done) = parent_ref.done {
        // SAFETY: the parent completes here, and the guard makes sure that this counts once.
        unsafe { done(parent, status) };
    }
}

/// The bus cannot pass on a request of the guard. So a child is submitted in its place and
/// completes it.
unsafe extern "C" fn pass(host: *const bay_host, chan: u64, io: *mut bay_io, lba: u64) {
    let _host = calls::leave();
    // SAFETY: forwards the plugin's arguments.
    let child = unsafe { io_derive(host, chan, io) };
    let (Some(submit), false) = (core::client().submit, child.is_null()) else {
        // SAFETY: the plugin owns the request.
        if let Some(done) = unsafe { (*io).done } {
            // SAFETY: it completes here, as the bus would complete it.
            unsafe { done(io, -libc::EBADF) };
        }
        return;
    };
    // SAFETY: it is a request of the bus that we may fill.
    unsafe { (*child).lba = lba };
    // SAFETY: forwards the call; the parent waits for its child.
    unsafe { submit(host, child, Some(passed), io.cast()) };
}

unsafe extern "C" fn passed(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `pass` set the parent as the argument, and this is the child's callback.
    unsafe { complete_from(ptr::null(), arg.cast(), child, status) };
}
