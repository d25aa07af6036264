//! Events for operators, and the plugin's part of the saved configuration.
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
    // SAFETY: the texts outlive the call.
    unsafe { (host.notify.notify)(host.raw, bay_str::new(kind), bay_str::new(context)) };
}

/// Writes JSON objects `{"method":…,"params":…}`, separated by commas.
#[derive(Debug)]
pub struct Config<'a> {
    sink: Sink<'a>,
    is_first: bool,
}

impl<'a> Config<'a> {
    pub(crate) fn new(sink: Sink<'a>) -> Self {
        Self { sink, is_first: true }
    }

    /// Writes one RPC call. Loading the configuration runs the call again, which restores a part of the plugin's state.
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

/// Declares that this plugin is a subsystem, or part of one, in `framework_get_subsystems`. `config` writes
/// the plugin's part of its configuration. `[app thread]`
///
/// # Errors
/// The errors of the host.
pub fn subsystem(_app: &App, name: &str, config: fn(&mut Config<'_>)) -> Result<()> {
    let host = host();
    let ctx = config as *mut c_void;
    // SAFETY: the text outlives the call; `ctx` is a function pointer.
    let status =
        unsafe { (host.notify.subsystem)(host.raw, bay_str::new(name), Some(write_config), ctx) };
    check(status, format_args!("subsystem {name}"))
}

unsafe extern "C" fn write_config(ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: `ctx` is the function that `subsystem` passed to the host.
    let config: fn(&mut Config<'_>) = unsafe { std::mem::transmute(ctx) };
    // SAFETY: the sink is valid for the call.
    if let Some(sink) = unsafe { Sink::new(sink) } {
        enter((), || config(&mut Config::new(sink)));
    }
}
