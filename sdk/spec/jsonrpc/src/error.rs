//! What a failed call answers: a code, a text, and data that a program can act on.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// Codes on the wire. JSON-RPC 2.0, section 5.1, and SPDK's own; any other
/// negative code is a negated errno.
pub mod code {
    /// Not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// JSON, but no request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method, or none that this server allows.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// A parameter is missing, unknown, of the wrong type or out of range.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The server's fault.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// The method may not be called in this state.
    pub const INVALID_STATE: i64 = -1;
    /// EACCES: the peer's role does not allow the method.
    pub const PERMISSION_DENIED: i64 = -13;
    /// ENODEV: clients test for it.
    pub const NO_SUCH_DEVICE: i64 = -19;
    /// EINVAL: well-formed, but not allowed.
    pub const INVALID_VALUE: i64 = -22;
}

/// The `error` member of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpcError {
    /// One of [`code`], or a negated errno.
    pub code: i64,
    /// For people: names the field, what was given and what is allowed.
    pub message: String,
    /// For programs: an [`ErrorData`] wherever this project makes the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// The `data` member of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// Stable name of the error; never changes once released.
    pub name: Cow<'static, str>,
    /// Path of the parameter at fault, such as `listen_address.trtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the field allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl RpcError {
    /// An error with a stable `name` and no field.
    pub fn new(code: i64, name: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }.with_data(ErrorData {
            name: Cow::Borrowed(name),
            field: None,
            allowed: None,
        })
    }

    /// The same error about one field.
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

    /// What failed with an errno of Linux: its negative is the code.
    pub fn of_errno(errno: i32, message: impl Into<String>) -> Self {
        Self::new(-i64::from(errno), errno_name(errno), message)
    }

    /// Not JSON. The connection closes after it.
    pub fn parse(why: impl fmt::Display) -> Self {
        Self::new(code::PARSE_ERROR, "parse_error", format!("Parse error: {why}"))
    }

    /// JSON, but no request.
    pub fn invalid_request(why: impl fmt::Display) -> Self {
        Self::new(code::INVALID_REQUEST, "invalid_request", format!("Invalid request: {why}"))
    }

    /// No such method; `why` says what the caller can do about it. Clients look for the first words.
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

    /// A parameter is well-formed, but its value cannot be taken.
    pub fn invalid_value(
        field: &str,
        given: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> Self {
        let allowed = allowed.to_string();
        let message = format!("{field} {given} is not allowed; allowed: {allowed}");
        Self::about(code::INVALID_VALUE, "invalid_value", message, field, Some(allowed))
    }

    /// The device `name` does not exist. Clients test code and text, so `data` carries the name.
    pub fn no_such_device(name: &str) -> Self {
        let mut error = Self::new(code::NO_SUCH_DEVICE, "no_such_device", "No such device");
        if let Some(data) = error.data.as_mut().and_then(Value::as_object_mut) {
            data.insert("device".into(), name.into());
        }
        error
    }

    /// The server's fault.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(code::INTERNAL_ERROR, "internal_error", format!("Internal error: {why}"))
    }
}

/// On the wire the code is the negative errno.
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
