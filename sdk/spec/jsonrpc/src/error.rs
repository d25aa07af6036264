//! The answer to a failed call: a code, a text, and data for programs.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// Error codes on the wire, from JSON-RPC 2.0, section 5.1, and from SPDK. Any other
/// negative code is a negated errno.
pub mod code {
    /// The text is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method, or this server does not allow it.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// A parameter is missing, unknown, of the wrong type or out of range.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The server failed.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// The method may not be called in this state.
    pub const INVALID_STATE: i64 = -1;
    /// EACCES: the caller's role does not allow the method.
    pub const PERMISSION_DENIED: i64 = -13;
    /// ENODEV: the device does not exist. Clients check for this code.
    pub const NO_SUCH_DEVICE: i64 = -19;
    /// EINVAL: the value is well-formed, but not allowed.
    pub const INVALID_VALUE: i64 = -22;
}

/// The `error` member of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpcError {
    /// A constant from [`code`], or a negated errno.
    pub code: i64,
    /// A text for people, with the field, the given value and the allowed values.
    pub message: String,
    /// Data for programs. It is an [`ErrorData`] in every error that this project creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// The `data` member of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// Name of the error. It never changes after a release.
    pub name: Cow<'static, str>,
    /// Path of the wrong parameter, such as `listen_address.trtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The allowed values of the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl RpcError {
    /// Makes an error with a stable `name` and no field.
    pub fn new(code: i64, name: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }.with_data(ErrorData {
            name: Cow::Borrowed(name),
            field: None,
            allowed: None,
        })
    }

    /// Adds a field to the error.
    pub fn about(
        code: i64,
        name: &'static str,
        message: impl Into<String>,
        field: impl Into<String>,
        allowed: Option<String>,
    ) -> Self {
        Self { code, message: message.into(), data: None }.with_data(ErrorData {
            name: Cow::Borrowed(name),
            field: Some(field.into()),
            allowed,
        })
    }

    fn with_data(mut self, data: ErrorData) -> Self {
        self.data = serde_json::to_value(data).ok();
        self
    }

    /// Makes the error for an errno of Linux. The code is the negated errno.
    pub fn of_errno(errno: i32, message: impl Into<String>) -> Self {
        Self::new(-i64::from(errno), errno_name(errno), message)
    }

    /// The text is not JSON. The connection closes after this error.
    pub fn parse(why: impl fmt::Display) -> Self {
        Self::new(code::PARSE_ERROR, "parse_error", format!("Parse error: {why}"))
    }

    /// The JSON is not a request.
    pub fn invalid_request(why: impl fmt::Display) -> Self {
        Self::new(code::INVALID_REQUEST, "invalid_request", format!("Invalid request: {why}"))
    }

    /// There is no such method. `why` says what the caller can do. Clients look for the first words of the text.
    pub fn method_not_found(method: &str, why: impl fmt::Display) -> Self {
        let message = format!("Method not found: {method}: {why}");
        Self::about(code::METHOD_NOT_FOUND, "method_not_found", message, method, None)
    }

    /// A parameter is missing, unknown or of the wrong type.
    pub fn invalid_params(
        message: impl Into<String>,
        field: impl Into<String>,
        allowed: Option<String>,
    ) -> Self {
        Self::about(code::INVALID_PARAMS, "invalid_params", message, field, allowed)
    }

    /// A parameter is well-formed, but its value is not allowed.
    pub fn invalid_value(
        field: &str,
        given: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> Self {
        let allowed = allowed.to_string();
        let message = format!("{field} {given} is not allowed; allowed: {allowed}");
        Self::about(code::INVALID_VALUE, "invalid_value", message, field, Some(allowed))
    }

    /// The device `name` does not exist. Clients check the code and the text, so the name is in `data`.
    pub fn no_such_device(name: &str) -> Self {
        let mut error = Self::new(code::NO_SUCH_DEVICE, "no_such_device", "No such device");
        if let Some(data) = error.data.as_mut().and_then(Value::as_object_mut) {
            data.insert("device".into(), name.into());
        }
        error
    }

    /// The server failed.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(code::INTERNAL_ERROR, "internal_error", format!("Internal error: {why}"))
    }
}

/// The code on the wire is the negated errno.
impl From<drivebay_spec_errno::Error> for RpcError {
    fn from(error: drivebay_spec_errno::Error) -> Self {
        if let Some((field, allowed)) = error.about() {
            let code = i64::from(error.status());
            let allowed = Some(allowed.to_owned());
            return Self::about(code, "invalid_value", error.message(), field, allowed);
        }
        match error.device() {
            Some(name) => Self::no_such_device(name),
            None => Self::of_errno(-error.status(), error.message()),
        }
    }
}

/// The stable name of an errno. Linux, `asm-generic/errno.h`.
const fn errno_name(errno: i32) -> &'static str {
    match errno {
        1 => "not_permitted",
        2 => "not_found",
        3 => "no_such_thread",
        5 => "io_error",
        11 => "try_again",
        12 => "no_memory",
        13 => "permission_denied",
        16 => "busy",
        17 => "exists",
        19 => "no_such_device",
        22 => "invalid_value",
        28 => "no_space",
        30 => "read_only",
        95 => "not_supported",
        98 => "address_in_use",
        99 => "address_not_available",
        110 => "timed_out",
        _ => "failed",
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_name_field_and_allowed_range_in_data() {
        let error = RpcError::invalid_value("block_size", 500, "a power of two, at least 512");
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"code":-22,"message":"block_size 500 is not allowed; allowed: a power of two, at least 512","data":{"name":"invalid_value","field":"block_size","allowed":"a power of two, at least 512"}}"#
        );
    }
}
