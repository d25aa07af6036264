//! Events, and the plugin's part of the configuration.
#![expect(unsafe_code, reason = "calls the host's notify interface")]

use crate::app::App;
use crate::entry::enter;
use crate::error::{Result, check};
use crate::host::{Sink, host};
use drivebay_plugin_api::{bay_sink, bay_str};
use std::ffi::c_void;

/// Appends an event for `notify_get_notifications`. `[any thread]`
pub fn notify(kind: &str, context: &str) {
    let host = host();
    // SAFETY: the texts live through the call.
    unsafe { (host.notify.notify)(host.raw, bay_str::new(kind), bay_str::new(context)) };
}

/// Writes JSON objects `{"method":…,"params":…}` with commas between them.
#[derive(Debug)]
pub struct Config<'a> {
    sink: Sink<'a>,
    is_first: bool,
}

impl<'a> Config<'a> {
    pub(crate) fn new(sink: Sink<'a>) -> Self {
        Self { sink, is_first: true }
    }

    /// Writes one call, that restores a part of what the plugin has.
    pub fn call(&mut self, method: &str, params: &impl serde::Serialize) {
        if !std::mem::take(&mut self.is_first) {
            self.sink.write(",");
        }
        write_call(&self.sink, method, params);
    }
}

/// Writes `{"method":…,"params":…}`.
fn write_call(sink: &Sink<'_>, method: &str, params: &impl serde::Serialize) {
    sink.write("{\"method\":");
    sink.write_json(&method);
    sink.write(",\"params\":");
    sink.write_json(params);
    sink.write("}");
}

/// Declares that this plugin is (part of) a subsystem of `framework_get_subsystems`; `config` writes
/// the plugin's part of its configuration. `[app thread]`
///
/// # Errors
/// What the host refuses.
pub fn subsystem(_app: &App, name: &str, config: fn(&mut Config<'_>)) -> Result<()> {
    let host = host();
    let ctx = config as *mut c_void;
    // SAFETY: the text lives through the call; `ctx` is a function.
    let status =
        unsafe { (host.notify.subsystem)(host.raw, bay_str::new(name), Some(write_config), ctx) };
    check(status, format_args!("subsystem {name}"))
}

unsafe extern "C" fn write_config(ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: `ctx` is the function that `subsystem` was given.
    let config: fn(&mut Config<'_>) = unsafe { std::mem::transmute(ctx) };
    // SAFETY: valid for the call.
    if let Some(sink) = unsafe { Sink::new(sink) } {
        enter((), || config(&mut Config::new(sink)));
    }
}
