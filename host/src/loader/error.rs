//! The errors of the loader.

pub use drivebay_spec_errno::{Error, Result};

use drivebay_spec_jsonrpc::RpcError;

/// Converts an error of the loader to an RPC error.
pub(super) fn rpc_error_of(error: &Error) -> RpcError {
    RpcError::new(i64::from(-error.errno()), "plugin", error.message())
}
