//! The host's tables, as a plugin sees them.

use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ptr;

/// The host handle of the plugin that owns everything here.
pub(crate) fn host() -> *const bay_host {
    ptr::without_provenance(0x51a0)
}

pub(crate) fn bus() -> &'static bay_bdev_api {
    unsafe { &*services::table(id::BDEV).unwrap().cast() }
}

pub(crate) fn client() -> &'static bay_bdev_client_api {
    unsafe { &*services::table(id::BDEV_CLIENT).unwrap().cast() }
}

pub(crate) fn threads() -> &'static bay_thread_api {
    unsafe { &*services::table(id::THREAD).unwrap().cast() }
}

pub(crate) fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Completes a request of the bus.
pub(crate) fn end(io: *mut bay_io, status: i32) {
    unsafe { (*io).done.unwrap()(io, status) };
}

pub(crate) fn put_chan(chan: u64) {
    assert_eq!(unsafe { client().chan_put.unwrap()(host(), chan) }, 0, "chan_put");
}

pub(crate) fn close(desc: u64) {
    assert_eq!(unsafe { client().close.unwrap()(host(), desc) }, 0, "close");
}

pub(crate) fn open(
    name: &str,
    event: bay_bdev_event_fn,
    arg: *mut std::ffi::c_void,
) -> Result<u64, i32> {
    let mut desc = 0;
    let open = client().open.unwrap();
    let name = bay_str::new(name);
    match unsafe { open(host(), name, BAY_OPEN_WRITE, Some(event), arg, &raw mut desc) } {
        0 => Ok(desc),
        errno => Err(errno),
    }
}

pub(crate) fn get_chan(desc: u64) -> Result<u64, i32> {
    let mut chan = 0;
    match unsafe { client().chan_get.unwrap()(host(), desc, &raw mut chan) } {
        0 => Ok(chan),
        errno => Err(errno),
    }
}
