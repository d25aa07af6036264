//! `bay.buf/1` and `bay.mem/1`

use super::size;
use crate::env::{buf, memory};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// Made at the first use, when the sizes are settled.
pub(super) fn buf_table() -> *const bay_buf_api {
    static TABLE: OnceLock<bay_buf_api> = OnceLock::new();
    TABLE.get_or_init(|| bay_buf_api {
        size: size::<bay_buf_api>(),
        max_len: u32::try_from(buf::max_len()).unwrap_or(u32::MAX),
        get: Some(get),
        put: Some(put),
        abort: Some(abort),
    })
}

unsafe extern "C" fn get(
    _host: *const bay_host,
    len: u32,
    region: *mut u32,
    wait: *mut bay_wait,
) -> *mut c_void {
    // SAFETY: the caller keeps the waiter until its callback or `abort`.
    let Some((addr, number)) = (unsafe { buf::get(len as usize, wait) }) else {
        return ptr::null_mut();
    };
    if !region.is_null() {
        // SAFETY: the caller's place for the region.
        unsafe { region.write(number) };
    }
    addr.as_ptr().cast()
}

unsafe extern "C" fn put(_host: *const bay_host, addr: *mut c_void, len: u32) {
    if let Some(addr) = NonNull::new(addr.cast()) {
        buf::put(addr, len as usize);
    }
}

unsafe extern "C" fn abort(_host: *const bay_host, wait: *mut bay_wait) {
    buf::abort(wait);
}

pub(super) static MEM: bay_mem_api =
    bay_mem_api { size: size::<bay_mem_api>(), flags: 0, alloc: Some(alloc), free: Some(free) };

unsafe extern "C" fn alloc(
    _host: *const bay_host,
    len: u64,
    align: u64,
    _numa: i32,
    region: *mut u32,
) -> *mut c_void {
    let (Ok(len), Ok(align)) = (usize::try_from(len), usize::try_from(align)) else {
        return ptr::null_mut();
    };
    match memory::alloc(len, align.max(1)) {
        Ok((addr, number)) => {
            if !region.is_null() {
                // SAFETY: the caller's place for the region.
                unsafe { region.write(number) };
            }
            addr.as_ptr().cast()
        }
        Err(error) => {
            tracing::warn!("{error}");
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn free(_host: *const bay_host, addr: *mut c_void, _len: u64) {
    memory::free(addr.cast());
}
