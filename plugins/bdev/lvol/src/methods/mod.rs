//! The methods of the control plane, with the reference's names, parameters, results and codes.

mod check;
mod content;
mod copy;
mod store;
mod volume;

use crate::{examine, stores};
use drivebay_blobstore::Error as StoreError;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, ParamType, Params, RpcError};
use drivebay_sdk::runtime::task;
use std::rc::Rc;

/// The code for an operation that began and failed, whatever its errno.
const INVALID_PARAMS: i64 = -32602;

/// Registers all methods. `[app thread]`
///
/// # Errors
/// `EEXIST` if a method's name is taken.
pub fn register(app: &App) -> Result<()> {
    store::register(app)?;
    volume::register(app)?;
    copy::register(app)?;
    content::register(app)?;
    check::register(app)
}

/// A method that takes several steps.
fn method<P: Params + 'static, R: ParamType + 'static>(
    app: &App,
    name: &'static str,
    doc: &str,
    result: &str,
    call: impl AsyncFn(P) -> Result<R, RpcError> + 'static,
) -> Result<()> {
    let call = Rc::new(call);
    Method::new(name, doc, move |_, request, params| {
        let call = Rc::clone(&call);
        let run = async move {
            examine::settled().await;
            request.answer(call(params).await);
        };
        // A refused task drops the request, and the dropped request answers itself.
        if let Ok(task) = task::spawn(name, run) {
            task.detach();
        }
    })
    .describe(|method| {
        method
            .result(result)
            .returns::<R>()
            .error(-19, "no_such_device", "No volume, store or bdev has that name or UUID.")
            .error(
                INVALID_PARAMS,
                "operation_failed",
                "The operation is not allowed here, or it failed.",
            )
    })
    .register(app)
}

/// The error of an operation that began and failed. SPDK uses one code for all of these.
fn failed(error: &Error) -> RpcError {
    failed_with(INVALID_PARAMS, error)
}

fn failed_with(code: i64, error: &Error) -> RpcError {
    let text = std::io::Error::from_raw_os_error(error.errno()).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    RpcError::new(code, "operation_failed", format!("{text}: {}", error.message()))
}

fn store_failed(error: StoreError) -> RpcError {
    failed(&stores::error(error))
}
