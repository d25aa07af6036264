//! What a method of the host is, and how it runs on the app thread.

use crate::rpc::{Handler, Responder, async_handler};
use drivebay_core::reactor::thread;
use drivebay_spec_jsonrpc::{Method, Params, RpcError};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The ticks of all times in results are nanoseconds.
pub(super) const TICK_RATE: u64 = 1_000_000_000;

/// A method and its handler.
pub(super) type Entry = (Method, Handler);

/// A method that answers at once, on the app thread.
pub(super) fn on_app<P: Params + Send + 'static, R: Serialize>(
    method: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
) -> Handler {
    on_app_later(move |params, responder| match method(params) {
        Ok(result) => responder.ok(&result),
        Err(error) => responder.error(error),
    })
}

/// A method that starts on the app thread and answers later.
pub(super) fn on_app_later<P: Params + Send + 'static>(
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
pub(super) fn refused(error: drivebay_core::Error) -> RpcError {
    error.into()
}

/// The error for a value that is only accepted when it means "off".
pub(super) fn unsupported(
    field: &str,
    given: impl std::fmt::Display,
    off: impl std::fmt::Display,
) -> RpcError {
    RpcError::invalid_value(field, given, format!("{off}; other values are not supported yet"))
}
