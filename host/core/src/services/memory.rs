//! The plugin interfaces `bay.buf/1` and `bay.mem/1`: buffers and memory.
//!
//! The ABI's types make each function `unsafe`: callers promise what `plugin-api` requires of their pointers. `abort` and `free` take any
//! address, because they only compare it with the addresses that the host handed out.

use super::{Callback, status};
use crate::env::{buf, memory, numa, region};
use crate::reactor::thread;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// Built at the first use, because the operator may change the sizes until then.
pub(super) fn buf_table() -> *const bay_buf_api {
    static TABLE: OnceLock<bay_buf_api> = OnceLock::new();
    TABLE.get_or_init(|| bay_buf_api {
        size: size_of_table::<bay_buf_api>(),
        max_len: u32::try_from(buf::max_len()).unwrap_or(u32::MAX),
        get: Some(get),
        put: Some(put),
        abort: Some(abort),
        pool: Some(pool),
    })
}

unsafe extern "C" fn get(
    _host: *const bay_host,
    len: u32,
    region: *mut u32,
    wait: *mut bay_wait,
) -> *mut c_void {
    // SAFETY: the caller keeps the waiter valid until its callback or `abort`.
    let Some((addr, number)) = (unsafe { buf::get(len as usize, wait) }) else {
        return ptr::null_mut();
    };
    if !region.is_null() {
        // SAFETY: the caller passes a valid pointer for the region.
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

unsafe extern "C" fn pool(
    _host: *const bay_host,
    len: u32,
    size: *mut u32,
    count: *mut u64,
) -> i32 {
    let Some((pool_size, pool_count)) = buf::pool_for(len as usize) else {
        return -libc::EINVAL;
    };
    if size.is_null() || count.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: the caller passes a valid pointer for the size.
    unsafe { size.write(pool_size) };
    // SAFETY: the caller passes a valid pointer for the count.
    unsafe { count.write(pool_count) };
    0
}

/// Built at the first use, because it contains the number of NUMA nodes of the machine.
pub(super) fn mem_table() -> *const bay_mem_api {
    static TABLE: OnceLock<bay_mem_api> = OnceLock::new();
    TABLE.get_or_init(|| bay_mem_api {
        size: size_of_table::<bay_mem_api>(),
        flags: 0,
        alloc: Some(alloc),
        free: Some(free),
        regions: region::table(),
        nregions: u32::try_from(region::REGIONS_MAX).unwrap_or(u32::MAX),
        numa_nodes: numa::nodes(),
        region_import: Some(region_import),
        region_remove: Some(region_remove),
        region_of: Some(region_of),
        watch: Some(watch),
        unwatch: Some(unwatch),
        region_release: Some(region_release),
        zero: Some(zero),
    })
}

unsafe extern "C" fn alloc(
    _host: *const bay_host,
    len: u64,
    align: u64,
    numa: i32,
    region: *mut u32,
) -> *mut c_void {
    let (Ok(len), Ok(align)) = (usize::try_from(len), usize::try_from(align)) else {
        return ptr::null_mut();
    };
    match memory::alloc_on(len, align.max(1), numa) {
        Ok((addr, number)) => {
            if !region.is_null() {
                // SAFETY: the caller passes a valid pointer for the region.
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

unsafe extern "C" fn zero(_host: *const bay_host, addr: *mut c_void, len: u64) -> i32 {
    let (Some(addr), Ok(len)) = (NonNull::new(addr.cast()), usize::try_from(len)) else {
        return -libc::EINVAL;
    };
    // SAFETY: the memory belongs to the caller (contract of the ABI).
    unsafe { memory::zero(addr, len) };
    0
}

unsafe extern "C" fn region_import(
    host: *const bay_host,
    fd: i32,
    offset: u64,
    len: u64,
    number: *mut u32,
) -> i32 {
    if fd < 0 || number.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: the caller keeps the descriptor open during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    status(region::import(host as usize, fd, offset, len).map(|imported| {
        // SAFETY: the caller passes a valid pointer for the number.
        unsafe { number.write(imported) };
    }))
}

unsafe extern "C" fn region_remove(
    _host: *const bay_host,
    number: u32,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let done = Callback::new(done, arg);
    // The last release may come from any thread, but the answer goes to the app thread.
    status(region::remove(number, move || thread::send_app(move || done.run(0))))
}

unsafe extern "C" fn region_of(_host: *const bay_host, addr: *const c_void, len: u64) -> u32 {
    usize::try_from(len).ok().and_then(|len| region::of(addr as usize, len)).unwrap_or(0)
}

unsafe extern "C" fn watch(
    host: *const bay_host,
    added: Option<bay_mem_region_changed_fn>,
    removing: Option<bay_mem_region_changed_fn>,
    ctx: *mut c_void,
    handle: *mut u64,
) -> i32 {
    if handle.is_null() {
        return -libc::EINVAL;
    }
    let ctx = ctx as usize;
    let tell = move |change: region::Change| {
        thread::send_app(move || {
            let call = if change.is_removal { removing } else { added };
            if let Some(call) = call
                && region::is_watching(change.watcher)
            {
                // SAFETY: the plugin passed the function and the context together, and it still
                // watches.
                unsafe { call(ctx as *mut c_void, change.region) };
            } else if change.is_removal {
                // The watcher does not get the message, so nobody else will release the region.
                let _ = region::release(change.region, change.watcher);
            }
        });
    };
    status(region::watch(host as usize, tell).map(|id| {
        // SAFETY: the caller passes a valid pointer for the handle.
        unsafe { handle.write(id) };
    }))
}

unsafe extern "C" fn unwatch(_host: *const bay_host, watch: u64) -> i32 {
    status(region::unwatch(watch))
}

unsafe extern "C" fn region_release(_host: *const bay_host, watch: u64, number: u32) -> i32 {
    status(region::release(number, watch))
}
