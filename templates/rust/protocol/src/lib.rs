//! `{{name}}`: a target that serves bdevs over Unix sockets. Replace this with your protocol.
//!
//! All code runs on the app thread. `{{name}}_export` opens a bdev and listens, and one poller serves its connections
//! (`export.rs`). `wire.rs` has the format of requests and responses. A target for many cores creates threads with
//! `drivebay_sdk::thread::create`, gives each a part of the connections, and gets a channel of the bdev on each.
#![forbid(unsafe_code)]

mod connection;
mod export;
mod wire;

#[cfg(test)]
mod tests;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method};
use drivebay_sdk::Stopping;
use drivebay_sdk::runtime::OnApp;
use export::Export;
use std::cell::RefCell;

plugin! {
    name: "{{name}}",
    kind: "target",
    provides: [],
    requires: [],
    methods: ["{{name}}_export", "{{name}}_unexport"],
    start: start,
    stop: stop,
}

/// All exports. They stay on the app thread.
static EXPORTS: OnApp<Exports> = OnApp::new();

type Exports = RefCell<Vec<Export>>;

params! {
    /// Parameters of `{{name}}_export`.
    pub struct ExportParams {
        /// Name of the bdev to serve.
        bdev_name: String,
        /// Path of the socket.
        path: String,
    }

    /// Parameters of `{{name}}_unexport`.
    pub struct UnexportParams {
        /// Path of the socket.
        path: String,
    }
}

fn start(app: &App) -> Result<()> {
    EXPORTS.get_or_init(Exports::default)?;
    Method::immediate("{{name}}_export", "Serves a bdev on a Unix socket.", add).register(app)?;
    Method::new("{{name}}_unexport", "Stops serving the bdev of a socket.", unexport).register(app)
}

fn add(app: &App, params: ExportParams) -> Result<bool> {
    let exports = EXPORTS.get().ok_or_else(Error::no_such_device)?;
    let export = Export::open(app, &params.bdev_name, params.path)?;
    exports.borrow_mut().push(export);
    Ok(true)
}

fn unexport(_: &App, call: Call, UnexportParams { path }: UnexportParams) {
    match take(|export| export.path() == path) {
        Some(export) => export.end(move || call.reply(true)),
        None => call.fail(Error::new(errno::ENOENT, format!("nothing is exported at {path}"))),
    }
}

/// Removes an export from the list.
fn take(wanted: impl Fn(&Export) -> bool) -> Option<Export> {
    let exports = EXPORTS.get()?;
    let mut exports = exports.borrow_mut();
    let place = exports.iter().position(wanted)?;
    Some(exports.swap_remove(place))
}

/// The bdev of an export is being removed.
fn base_removed(path: &str) {
    if let Some(export) = take(|export| export.path() == path) {
        warn!("the export at {path} ends, because its bdev is being removed");
        export.end(|| {});
    }
}

/// The plugin stops. The host waits until the token is dropped.
fn stop(_: &App, stopping: Stopping) {
    end_all(stopping);
}

fn end_all(stopping: Stopping) {
    match take(|_| true) {
        Some(export) => export.end(move || end_all(stopping)),
        None => drop(stopping),
    }
}
