//! `bay.broker/1`: the tables that plugins provide for each other.

use super::arguments::{NAME_MAX, grant, invalid, required, store};
use crate::loader::broker::Revoked;
use drivebay_plugin_api::{
    bay_broker_api, bay_broker_revoked_fn, bay_cb_fn, bay_host, bay_str, size_of_table,
};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

pub(super) static TABLE: bay_broker_api = bay_broker_api {
    size: size_of_table::<bay_broker_api>(),
    flags: 0,
    provide: Some(broker_provide),
    withdraw: Some(broker_withdraw),
    acquire: Some(broker_acquire),
    release: Some(broker_release),
};

/// # Safety
/// `bay_broker_provide_fn`. `[app thread]`
unsafe extern "C" fn broker_provide(
    host: *const bay_host,
    interface: bay_str,
    table: *const c_void,
    handle: *mut u64,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let interface = unsafe { required(interface, "id", NAME_MAX) };
    let result = grant.broker().and_then(|broker| {
        if table.is_null() {
            return Err(invalid("table is NULL"));
        }
        let number = broker.provide(grant.number, interface?, table)?;
        // SAFETY: NULL, or a valid pointer of the plugin.
        unsafe { store(handle, number) };
        Ok(())
    });
    grant.status("bay.broker/1 provide", result)
}

/// # Safety
/// `bay_broker_withdraw_fn`. `[app thread]`
unsafe extern "C" fn broker_withdraw(
    host: *const bay_host,
    handle: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let end = Box::new(move || {
        if let Some(done) = done {
            // SAFETY: these are the plugin's own callback and argument, on the app thread.
            unsafe { done(arg, 0) }
        }
    });
    let result = grant.broker().and_then(|broker| broker.withdraw(grant.number, handle, end));
    grant.status("bay.broker/1 withdraw", result)
}

/// # Safety
/// `bay_broker_acquire_fn`. `[app thread]`
unsafe extern "C" fn broker_acquire(
    host: *const bay_host,
    interface: bay_str,
    revoked: Option<bay_broker_revoked_fn>,
    arg: *mut c_void,
    reference: *mut u64,
) -> *const c_void {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return ptr::null() };
    // SAFETY: the text is valid for the call.
    let interface = unsafe { required(interface, "id", NAME_MAX) };
    let on_revoked = revoked.map(|revoked| -> Revoked {
        // SAFETY: these are the plugin's own callback and argument, on the app thread.
        Rc::new(move || unsafe { revoked(arg) })
    });
    let result = grant
        .broker()
        .and_then(|broker| broker.acquire(grant.number, interface?, on_revoked))
        .map(|found| {
            let (table, handle) = found.unwrap_or((ptr::null(), 0));
            // SAFETY: NULL, or a valid pointer of the plugin.
            unsafe { store(reference, handle) };
            table
        });
    match result {
        Ok(table) => table,
        Err(error) => {
            grant.status("bay.broker/1 acquire", Err(error));
            ptr::null()
        }
    }
}

/// # Safety
/// `bay_broker_release_fn`. `[app thread]`
unsafe extern "C" fn broker_release(host: *const bay_host, reference: u64) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let result = grant.broker().and_then(|broker| broker.release(grant.number, reference));
    grant.status("bay.broker/1 release", result)
}
