//! `bay.bdev_client/1` as a guarded plugin sees it: a filter's children are derived from the bus's
//! request behind the guard's, and its callbacks are watched.

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

/// A callback for events and its argument.
type OnEvent = (Option<bay_bdev_event_fn>, *mut c_void);
/// A callback for the end of an I/O and its argument.
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
    // SAFETY: forwards, with the plugin's callback in a box of the guard's.
    let status = unsafe { open(host, name, flags, Some(on_bdev_event), on_event.cast(), desc) };
    if status == 0 {
        // SAFETY: the plugin's place, which the host has filled.
        let handle = unsafe { desc.read() };
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        events.insert(handle, on_event as usize);
    } else {
        // SAFETY: a refused call does not keep it.
        drop(unsafe { Box::from_raw(on_event) });
    }
    status
}

unsafe extern "C" fn on_bdev_event(arg: *mut c_void, event: u32, value: u64) {
    // SAFETY: the box of `open`, which lives until `close`; copied, as the callback may close.
    let (call, arg) = unsafe { *arg.cast::<OnEvent>() };
    if let Some(call) = call {
        let _entered = calls::enter(Call::Event);
        // SAFETY: function and argument of the plugin, while the descriptor is open.
        unsafe { call(arg, event, value) };
    }
}

unsafe extern "C" fn close(host: *const bay_host, desc: u64) -> i32 {
    let _host = calls::leave();
    let Some(close) = core::client().close else { return -libc::ENOSYS };
    // SAFETY: forwards.
    let status = unsafe { close(host, desc) };
    if status == 0 {
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_event) = events.remove(&desc) {
            // SAFETY: the box of `open`; a closed descriptor gets no event.
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
    // SAFETY: the parent is a request that the plugin has.
    let behind = unsafe { request::behind(parent) };
    let api = core::client();
    if let (Some(behind), Some(derive)) = (behind, api.io_derive) {
        // SAFETY: forwards, with the bus's own request.
        return unsafe { derive(host, chan, behind) };
    }
    // A request of the suite's: the bus knows none behind it, so a fresh one takes its fields.
    let Some(get) = api.io_get else { return ptr::null_mut() };
    // SAFETY: forwards; nobody waits.
    let child = unsafe { get(host, chan, ptr::null_mut()) };
    if !child.is_null() {
        // SAFETY: a request of the bus's that is ours to fill.
        let to = unsafe { &mut *child };
        // SAFETY: a request that the plugin has.
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
    // SAFETY: the parent is a request that the plugin has.
    let behind = unsafe { request::behind(parent) };
    if let (Some(behind), Some(derive)) = (behind, core::client().io_derive_part) {
        // SAFETY: forwards, with the bus's own request.
        return unsafe { derive(host, chan, behind, first, nblocks) };
    }
    // SAFETY: a request that the plugin has.
    let whole = unsafe { &*parent };
    if first.checked_add(nblocks).is_none_or(|end| end > whole.nblocks) {
        return ptr::null_mut();
    }
    // SAFETY: forwards.
    let child = unsafe { io_derive(host, chan, parent) };
    if !child.is_null() && nblocks != whole.nblocks {
        // SAFETY: the suite keeps the list valid until the request ends.
        let list = unsafe { slice(whole, first, nblocks) };
        // SAFETY: a request of the bus's that is ours to fill.
        let to = unsafe { &mut *child };
        to.iovcnt = u16::try_from(list.len()).unwrap_or(u16::MAX);
        to.iov = list.as_ptr();
    }
    child
}

/// The pieces of a request of the suite's that hold `nblocks` of its blocks. Never freed: the suite
/// sends few of them.
///
/// # Safety
/// The request's list is valid.
unsafe fn slice(whole: &bay_io, first: u64, nblocks: u64) -> &'static [bay_iov] {
    if whole.iov.is_null() {
        return &[];
    }
    // SAFETY: by the contract.
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
    // SAFETY: forwards, with the plugin's callback in a box of the guard's.
    unsafe { submit(host, io, watched, arg) };
}

unsafe extern "C" fn on_io_end(arg: *mut c_void, io: *mut bay_io, status: i32) {
    // SAFETY: the box of `submit`, given back once.
    let (cb, arg) = *unsafe { Box::from_raw(arg.cast::<OnEnd>()) };
    let _entered = calls::enter(Call::IoCallback);
    // SAFETY: function and argument of the plugin, once for its submit.
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
    // SAFETY: the parent is a request that the plugin has.
    let parent_ref = unsafe { &mut *parent };
    parent_ref.detail = child.detail;
    parent_ref.detail_kind = child.detail_kind;
    if let Some(done) = parent_ref.done {
        // SAFETY: the parent ends here; the guard sees to it that this counts once.
        unsafe { done(parent, status) };
    }
}

/// The bus cannot pass on a request of the guard's: another one goes on in its place and ends it.
unsafe extern "C" fn pass(host: *const bay_host, chan: u64, io: *mut bay_io, lba: u64) {
    let _host = calls::leave();
    // SAFETY: the plugin's arguments.
    let child = unsafe { io_derive(host, chan, io) };
    let (Some(submit), false) = (core::client().submit, child.is_null()) else {
        // SAFETY: a request that the plugin has.
        if let Some(done) = unsafe { (*io).done } {
            // SAFETY: it ends here, as the bus would end it.
            unsafe { done(io, -libc::EBADF) };
        }
        return;
    };
    // SAFETY: a request of the bus's that is ours to fill.
    unsafe { (*child).lba = lba };
    // SAFETY: forwards; the parent waits for its child.
    unsafe { submit(host, child, Some(passed), io.cast()) };
}

unsafe extern "C" fn passed(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: the parent of `pass`, and the child whose callback this is.
    unsafe { complete_from(ptr::null(), arg.cast(), child, status) };
}
