//! `bay.notify/1`: a plugin's notifications, and its part of the saved configuration.

use super::arguments::{LINE_MAX, NAME_MAX, RESULT_MAX, grant, required};
use super::grant::Grant;
use crate::loader::outside::ConfigWriter;
use drivebay_plugin_api::{
    Collected, bay_host, bay_notify_api, bay_str, bay_subsystem_config_fn, size_of_table,
};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

pub(super) static TABLE: bay_notify_api = bay_notify_api {
    size: size_of_table::<bay_notify_api>(),
    flags: 0,
    notify: Some(notify),
    subsystem: Some(subsystem),
};

/// # Safety
/// `bay_notify_fn`. `[any thread]`
unsafe extern "C" fn notify(host: *const bay_host, kind: bay_str, context: bay_str) {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return };
    // SAFETY: the text is valid for the call.
    let kind = unsafe { required(kind, "kind", NAME_MAX) };
    // SAFETY: the text is valid for the call.
    let context = unsafe { required(context, "context", LINE_MAX) };
    if let (Ok(kind), Ok(context)) = (kind, context) {
        grant.outside.events.notify(kind, context);
    }
}

/// # Safety
/// `bay_subsystem_register_fn`. `[app thread]`
unsafe extern "C" fn subsystem(
    host: *const bay_host,
    name: bay_str,
    config: Option<bay_subsystem_config_fn>,
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let name = unsafe { required(name, "name", NAME_MAX) };
    let result = grant.own.get().and(name).map(|name| {
        let writer = config.map(|function| SubsystemConfig { grant, function, ctx });
        let writer = writer.map(|w| Box::new(move || w.write()) as ConfigWriter);
        grant.outside.events.add_subsystem(grant.number, name, writer);
    });
    grant.status("bay.notify/1 subsystem", result)
}

/// Writes a plugin's part of a subsystem's configuration.
#[derive(Clone, Copy)]
struct SubsystemConfig {
    grant: &'static Grant,
    function: bay_subsystem_config_fn,
    ctx: *mut c_void,
}

// SAFETY: `ctx` is only passed to `function`, and only on the app thread, which `write` checks. The
// other fields of `grant` are constant or made for any thread.
unsafe impl Send for SubsystemConfig {}

// SAFETY: as above.
unsafe impl Sync for SubsystemConfig {}

impl SubsystemConfig {
    fn write(self) -> String {
        let Self { grant, function, ctx } = self;
        if grant.own.get().is_err() || !grant.is_alive.load(Ordering::Acquire) {
            return String::new();
        }
        let mut text = Collected::new(RESULT_MAX);
        let sink = text.sink();
        // SAFETY: these are the plugin's own function and argument, on the app thread, before its
        // end.
        unsafe { function(ctx, &raw const sink) };
        text.into_text()
    }
}
