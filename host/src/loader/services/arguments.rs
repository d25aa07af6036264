//! The arguments of a plugin's call, from pointers to checked values.

use super::grant::Grant;
use crate::loader::error::{Error, Result};
use drivebay_plugin_api::{bay_host, bay_str};
use std::borrow::Cow;

/// The longest name or id, in bytes.
pub(super) const NAME_MAX: usize = 128;

/// The longest log line, event or error message, in bytes.
pub(super) const LINE_MAX: usize = 8 * 1024;

/// The longest declaration of a method, and the longest `data` of an error, in bytes.
pub(super) const SCHEMA_MAX: usize = 256 * 1024;

/// The longest result of a call, and the longest configuration of a subsystem, in bytes.
pub(super) const RESULT_MAX: usize = 32 * 1024 * 1024;

/// # Safety
/// `host` is NULL, or the pointer that `init` got.
pub(super) unsafe fn grant(host: *const bay_host) -> Option<&'static Grant> {
    // SAFETY: the caller guarantees this.
    let host = unsafe { host.as_ref() }?;
    // SAFETY: `Grant::new` set `ctx` to a grant, which is never freed.
    unsafe { host.ctx.cast::<Grant>().cast_const().as_ref() }
}

/// # Safety
/// `text` is valid for the call.
pub(super) unsafe fn required<'a>(text: bay_str, what: &str, len_max: usize) -> Result<&'a str> {
    // SAFETY: the caller guarantees this.
    let text = unsafe { text.borrow(len_max) };
    text.ok_or_else(|| invalid(format!("{what} must be UTF-8 of at most {len_max} bytes")))
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(libc::EINVAL, message)
}

/// # Safety
/// `to` is NULL or may be written to.
pub(super) unsafe fn store(to: *mut u64, value: u64) {
    // SAFETY: the caller guarantees this.
    if let Some(to) = unsafe { to.as_mut() } {
        *to = value;
    }
}

/// # Safety
/// `text` is valid for `'a`.
pub(super) unsafe fn lossy<'a>(text: bay_str) -> Cow<'a, str> {
    if text.ptr.is_null() || text.len == 0 {
        return Cow::Borrowed("");
    }
    // SAFETY: the caller guarantees this.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8_lossy(bytes)
}
