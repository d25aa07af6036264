//! `bay.pci/1`. The loader gives it only to plugins with the permission `pci`.

use super::{status, string};
use crate::env::pci::{device, events, ledger, permit, sysfs};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::path::Path;

pub(super) static TABLE: bay_pci_api = bay_pci_api {
    size: size_of_table::<bay_pci_api>(),
    flags: 0,
    list: Some(list),
    open: Some(open),
    close: Some(close),
    config_read: Some(config_read),
    config_write: Some(config_write),
    bar: Some(bar),
    set_master: Some(set_master),
    reset: Some(reset),
    vectors: Some(vectors),
    interrupts: Some(interrupts),
    removal_fd: Some(removal_fd),
    share: Some(share),
    changes_fd: Some(changes_fd),
};

unsafe extern "C" fn list(
    _host: *const bay_host,
    found: Option<bay_pci_found_fn>,
    ctx: *mut c_void,
) -> i32 {
    let Some(call) = found else { return -libc::EINVAL };
    let all = sysfs::list(Path::new(sysfs::ROOT));
    for found in all.iter().filter(|found| permit::get().allows(found.address)) {
        let address = found.address.to_string();
        let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
        let info = bay_pci_info {
            size: size_of_table::<bay_pci_info>(),
            vendor: found.vendor,
            device: found.device,
            subvendor: found.subvendor,
            subdevice: found.subdevice,
            class: found.class,
            numa: number(found.numa).unwrap_or(-1),
            iommu_group: number(found.iommu_group).unwrap_or(-1),
            rsv: 0,
            address: bay_str::new(&address),
            driver: bay_str::new(found.driver.as_deref().unwrap_or_default()),
        };
        // SAFETY: the caller's function with its context; the texts live through the call.
        unsafe { call(ctx, &raw const info) };
    }
    0
}

unsafe extern "C" fn open(
    host: *const bay_host,
    address: bay_str,
    why: *const bay_sink,
    handle: *mut u64,
) -> i32 {
    if handle.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: the caller's text is valid for the call.
    let address = unsafe { string(address) };
    let opened = device::open(host as usize, &address).map(|opened| {
        // SAFETY: the caller's place for the handle.
        unsafe { handle.write(opened) };
    });
    // SAFETY: the caller's sink, or NULL.
    unsafe { explained(opened, why) }
}

unsafe extern "C" fn close(host: *const bay_host, handle: u64) -> i32 {
    status(device::close(host as usize, handle))
}

unsafe extern "C" fn config_read(
    host: *const bay_host,
    handle: u64,
    offset: u32,
    value: *mut u32,
    len: u32,
) -> i32 {
    // SAFETY: the caller's place for the value.
    unsafe { store(device::config_read(host as usize, handle, offset, len), value) }
}

unsafe extern "C" fn config_write(
    host: *const bay_host,
    handle: u64,
    offset: u32,
    value: *mut u32,
    len: u32,
) -> i32 {
    // SAFETY: the caller's value, or NULL.
    let Some(value) = (unsafe { value.as_ref() }) else { return -libc::EINVAL };
    status(device::config_write(host as usize, handle, offset, *value, len))
}

unsafe extern "C" fn bar(
    host: *const bay_host,
    handle: u64,
    index: u32,
    addr: *mut *mut c_void,
    len: *mut u64,
) -> i32 {
    let mapped = device::bar(host as usize, handle, index);
    let (addr_of, len_of) = match mapped {
        Ok((addr, len)) => (Ok(addr as *mut c_void), Ok(len as u64)),
        Err(error) => return super::failed(&error),
    };
    // SAFETY: the caller's place for the address.
    let stored = unsafe { store(addr_of, addr) };
    // SAFETY: the caller's place for the length.
    let stored_len = unsafe { store(len_of, len) };
    stored.min(stored_len)
}

unsafe extern "C" fn set_master(host: *const bay_host, handle: u64, on: u32) -> i32 {
    status(device::set_master(host as usize, handle, on != 0))
}

unsafe extern "C" fn reset(host: *const bay_host, handle: u64) -> i32 {
    status(device::reset(host as usize, handle))
}

unsafe extern "C" fn vectors(host: *const bay_host, handle: u64, count: *mut u32) -> i32 {
    // SAFETY: the caller's place for the count.
    unsafe { store(device::vectors(host as usize, handle), count) }
}

unsafe extern "C" fn interrupts(
    host: *const bay_host,
    handle: u64,
    count: u32,
    fds: *mut i32,
) -> i32 {
    if fds.is_null() {
        return -libc::EINVAL;
    }
    status(device::interrupts(host as usize, handle, count).map(|given| {
        for (index, fd) in given.into_iter().enumerate() {
            // SAFETY: the caller's list has `count` elements, and `interrupts` returned `count` descriptors.
            let place = unsafe { fds.add(index) };
            // SAFETY: as above.
            unsafe { place.write(fd) };
        }
    }))
}

unsafe extern "C" fn removal_fd(host: *const bay_host, handle: u64, fd: *mut i32) -> i32 {
    // SAFETY: the caller's place for the descriptor.
    unsafe { store(device::removal_fd(host as usize, handle), fd) }
}

unsafe extern "C" fn share(_host: *const bay_host, region: u32, why: *const bay_sink) -> i32 {
    // SAFETY: the caller's sink, or NULL.
    unsafe { explained(ledger::share(region), why) }
}

unsafe extern "C" fn changes_fd(host: *const bay_host, fd: *mut i32) -> i32 {
    // SAFETY: the caller's place for the descriptor.
    unsafe { store(events::changes_fd(host as usize), fd) }
}

/// Stores the value of a successful result in `place`, and returns the result's status. `EINVAL` when `place` is NULL.
///
/// # Safety
/// `place` is NULL, or may be written.
unsafe fn store<T>(result: Result<T>, place: *mut T) -> i32 {
    if place.is_null() {
        return -libc::EINVAL;
    }
    status(result.map(|value| {
        // SAFETY: the caller's promise.
        unsafe { place.write(value) };
    }))
}

/// Returns the status of a result, and writes the text of an error to the sink.
///
/// # Safety
/// `why` is NULL or a sink that is valid for the call.
unsafe fn explained(result: Result<(), Error>, why: *const bay_sink) -> i32 {
    let Err(error) = result else { return 0 };
    // SAFETY: the caller's promise.
    if let Some(sink) = unsafe { why.as_ref() }
        && let Some(write) = sink.write
    {
        // SAFETY: the sink's own function with its context; the text lives through the call.
        unsafe { write(sink.ctx, bay_str::new(error.message())) };
    }
    super::failed(&error)
}
