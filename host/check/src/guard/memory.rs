//! `bay.mem/1` and `bay.buf/1` for a guarded plugin: the guard counts what the plugin holds.

use super::{bdev, core, poller, thread};
use crate::calls;
use drivebay_plugin_api::*;
use serde::Serialize;
use std::ffi::c_void;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

static REGIONS: AtomicU64 = AtomicU64::new(0);
static REGION_BYTES: AtomicU64 = AtomicU64::new(0);
static BUFFERS: AtomicU64 = AtomicU64::new(0);

/// The objects of the host that the plugin holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Bdevs on the bus.
    pub bdevs: u64,
    /// Regions of DMA memory.
    pub regions: u64,
    /// The total length of these regions, in bytes.
    pub region_bytes: u64,
    /// Buffers of the host's pools.
    pub buffers: u64,
    /// Pollers.
    pub pollers: u64,
    /// Lightweight threads.
    pub threads: u64,
}

/// What the guarded plugin holds now.
#[must_use]
pub fn held() -> Held {
    Held {
        bdevs: bdev::bdevs().len() as u64,
        regions: REGIONS.load(Ordering::Relaxed),
        region_bytes: REGION_BYTES.load(Ordering::Relaxed),
        buffers: BUFFERS.load(Ordering::Relaxed),
        pollers: poller::live(),
        threads: thread::live(),
    }
}

pub(super) static MEM: LazyLock<bay_mem_api> =
    LazyLock::new(|| bay_mem_api { alloc: Some(alloc), free: Some(free), ..*core::mem() });

pub(super) static BUF: LazyLock<bay_buf_api> =
    LazyLock::new(|| bay_buf_api { get: Some(get), put: Some(put), ..*core::buf() });

unsafe extern "C" fn alloc(
    host: *const bay_host,
    len: u64,
    align: u64,
    numa: i32,
    region: *mut u32,
) -> *mut c_void {
    let _host = calls::leave();
    let Some(alloc) = core::mem().alloc else { return std::ptr::null_mut() };
    // SAFETY: forwards the call.
    let addr = unsafe { alloc(host, len, align, numa, region) };
    if !addr.is_null() {
        REGIONS.fetch_add(1, Ordering::Relaxed);
        REGION_BYTES.fetch_add(len, Ordering::Relaxed);
    }
    addr
}

unsafe extern "C" fn free(host: *const bay_host, addr: *mut c_void, len: u64) {
    let _host = calls::leave();
    let Some(free) = core::mem().free else { return };
    if !addr.is_null() {
        REGIONS.fetch_sub(1, Ordering::Relaxed);
        REGION_BYTES.fetch_sub(len, Ordering::Relaxed);
    }
    // SAFETY: forwards the call.
    unsafe { free(host, addr, len) };
}

unsafe extern "C" fn get(
    host: *const bay_host,
    len: u32,
    region: *mut u32,
    wait: *mut bay_wait,
) -> *mut c_void {
    let _host = calls::leave();
    let Some(get) = core::buf().get else { return std::ptr::null_mut() };
    // SAFETY: forwards the call.
    let buf = unsafe { get(host, len, region, wait) };
    if !buf.is_null() {
        BUFFERS.fetch_add(1, Ordering::Relaxed);
    }
    buf
}

unsafe extern "C" fn put(host: *const bay_host, buf: *mut c_void, len: u32) {
    let _host = calls::leave();
    let Some(put) = core::buf().put else { return };
    BUFFERS.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: forwards the call.
    unsafe { put(host, buf, len) };
}
