//! What a plugin may call: its `bay_host`, and the tables that the loader itself implements
//! (`bay.rpc/1`, `bay.broker/1`, `bay.notify/1`). The core implements all other tables.
//!
//! Each thunk converts pointers to values, calls safe code and converts the result to a status.
#![expect(unsafe_code, reason = "plugins call in with raw pointers")]

mod arguments;
mod broker;
mod failed;
mod grant;
mod notify;
mod rpc;

pub(super) use grant::Grant;

use super::broker::Broker;
use super::calls::OpenCalls;
use super::outside::Outside;
use super::trust::policy::permission_for;
use arguments::{LINE_MAX, NAME_MAX, lossy};
use drivebay_plugin_api::{
    BAY_ABI_MAJOR, BAY_ABI_MINOR, BAY_LOG_DEBUG, BAY_LOG_ERROR, BAY_LOG_INFO, BAY_LOG_NOTICE,
    BAY_LOG_WARN, LOG_TARGET_PANIC, LOG_TARGET_POISONED, bay_host, bay_str, id,
};
use std::ffi::c_void;
use std::ptr;
use std::rc::Weak;
use std::sync::Arc;

/// Creates the grant of a new instance. App thread.
pub(super) fn new_grant(
    number: u64,
    name: &str,
    permissions: Vec<String>,
    outside: &Outside,
    calls: &Arc<OpenCalls>,
    broker: Weak<Broker>,
) -> &'static Grant {
    let host = bay_host {
        size: u32::try_from(size_of::<bay_host>()).unwrap_or(u32::MAX),
        abi_major: BAY_ABI_MAJOR,
        abi_minor: BAY_ABI_MINOR,
        ctx: ptr::null_mut(),
        get_iface: Some(get_iface),
        log_level: outside.log_level.as_ptr(),
        log: Some(log),
    };
    Grant::new(number, name, permissions, outside, calls, broker, host)
}

/// # Safety
/// `bay_host_get_iface_fn`. `[any thread]`
unsafe extern "C" fn get_iface(
    host: *const bay_host,
    interface: bay_str,
    min_minor: u32,
) -> *const c_void {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { arguments::grant(host) }) else { return ptr::null() };
    // SAFETY: the text is valid for the call.
    let Some(interface) = (unsafe { interface.borrow(NAME_MAX) }) else { return ptr::null() };
    if min_minor > u32::from(BAY_ABI_MINOR) {
        return ptr::null();
    }
    if let Some(permission) = permission_for(interface)
        && !grant.permissions.iter().any(|granted| granted == permission)
    {
        let plugin = grant.name.as_str();
        tracing::warn!(
            plugin,
            interface,
            "the plugin did not get this interface, because it lacks the permission {permission}"
        );
        return ptr::null();
    }
    match interface {
        id::RPC => ptr::from_ref(&rpc::TABLE).cast(),
        id::BROKER => ptr::from_ref(&broker::TABLE).cast(),
        id::NOTIFY => ptr::from_ref(&notify::TABLE).cast(),
        other => grant.outside.core.table(other).unwrap_or(ptr::null()),
    }
}

/// # Safety
/// `bay_log_fn`. `[any thread]`
unsafe extern "C" fn log(host: *const bay_host, level: u32, target: bay_str, line: bay_str) {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { arguments::grant(host) }) else { return };
    // SAFETY: the text is valid for the call.
    let target = unsafe { target.borrow(NAME_MAX) };
    let cut = bay_str { ptr: line.ptr, len: line.len.min(LINE_MAX) };
    // SAFETY: the text is valid for the call.
    let line = unsafe { lossy(cut) };
    match target {
        Some(LOG_TARGET_POISONED) => return grant.panicked(&line, true),
        Some(LOG_TARGET_PANIC) => grant.panicked(&line, false),
        _ => {}
    }
    let plugin = grant.name.as_str();
    match level {
        BAY_LOG_ERROR => tracing::error!(plugin, "{line}"),
        BAY_LOG_WARN => tracing::warn!(plugin, "{line}"),
        BAY_LOG_NOTICE => tracing::info!(plugin, notice = true, "{line}"),
        BAY_LOG_INFO => tracing::info!(plugin, "{line}"),
        BAY_LOG_DEBUG => tracing::debug!(plugin, "{line}"),
        _ => tracing::trace!(plugin, "{line}"),
    }
}
