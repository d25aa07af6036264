//! The host's own methods, one file for each subject.
//!
//! They run on the app thread; the RPC thread only decodes. A method that needs every thread visits
//! the threads by messages, so that nothing waits.
#![forbid(unsafe_code)]

pub mod bdev;
pub mod bdev_options;
pub mod framework;
pub mod iobuf;
mod iostat;
mod log;
mod notify;
mod process;
mod threads;

use crate::host::Host;
use crate::rpc::{Handler, Owner, RegisterError, Responder, async_handler};
use drivebay_core::reactor::thread;
use drivebay_spec_jsonrpc::{Method, Params, RpcError};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The ticks of all times in results are nanoseconds.
const TICK_RATE: u64 = 1_000_000_000;

/// A method and its handler.
type Entry = (Method, Handler);

/// Registers all methods of the host.
///
/// # Errors
/// Another owner has one of the names.
pub fn register(host: &Arc<Host>) -> Result<(), RegisterError> {
    let all = [
        framework::entries(host),
        process::entries(),
        threads::entries(),
        log::entries(host),
        notify::entries(host),
        bdev::entries(),
        bdev_options::entries(),
        iostat::entries(),
        iobuf::entries(),
    ];
    for (method, handler) in all.into_iter().flatten() {
        host.registry.register(&Owner::host(), method, handler)?;
    }
    Ok(())
}

/// A method that answers at once, on the app thread.
fn on_app<P: Params + Send + 'static, R: Serialize>(
    method: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
) -> Handler {
    on_app_later(move |params, responder| match method(params) {
        Ok(result) => responder.ok(&result),
        Err(error) => responder.error(error),
    })
}

/// A method that starts on the app thread and answers later.
fn on_app_later<P: Params + Send + 'static>(
    method: impl Fn(P, Responder) + Send + Sync + 'static,
) -> Handler {
    let method = Arc::new(method);
    async_handler(move |params, responder| {
        let method = Arc::clone(&method);
        thread::send_app(move || {
            // A panic drops the responder, which answers with an error. The reactor continues.
            let call = AssertUnwindSafe(|| method(params, responder));
            if catch_unwind(call).is_err() {
                tracing::error!("a method of the host panicked");
            }
        });
    })
}

/// Converts an error of the core to an RPC error.
fn refused(error: drivebay_core::Error) -> RpcError {
    error.into()
}

/// The error for a value that is only accepted when it means "off".
fn unsupported(
    field: &str,
    given: impl std::fmt::Display,
    off: impl std::fmt::Display,
) -> RpcError {
    RpcError::invalid_value(field, given, format!("{off}; other values are not supported yet"))
}
