//! The error of a control operation: an errno for programs and a text for people.
//!
//! The host, the SDK and plugins all use this type. The values are those of Linux,
//! `include/uapi/asm-generic/errno-base.h` and `errno.h`.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

/// Errno values that the SDK and plugins use.
pub mod errno {
    /// Not permitted, such as for a bdev that another client has claimed, or a call outside of the app thread.
    pub const EPERM: i32 = 1;
    /// The object does not exist.
    pub const ENOENT: i32 = 2;
    /// A read or write failed.
    pub const EIO: i32 = 5;
    /// A resource is used up for now; try again.
    pub const EAGAIN: i32 = 11;
    /// No memory.
    pub const ENOMEM: i32 = 12;
    /// The callee failed, such as by a panic.
    pub const EFAULT: i32 = 14;
    /// The object is in use.
    pub const EBUSY: i32 = 16;
    /// The object exists already.
    pub const EEXIST: i32 = 17;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// A value is not allowed.
    pub const EINVAL: i32 = 22;
    /// No space left.
    pub const ENOSPC: i32 = 28;
    /// The object is read-only.
    pub const EROFS: i32 = 30;
    /// The function is not implemented.
    pub const ENOSYS: i32 = 38;
    /// The operation is not supported.
    pub const EOPNOTSUPP: i32 = 95;
    /// The operation did not finish in time.
    pub const ETIMEDOUT: i32 = 110;
    /// The operation was canceled.
    pub const ECANCELED: i32 = 125;
}

/// The result of a control operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a control operation failed: an errno, and a text that names the field and the allowed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    message: String,
    /// The field with a wrong value, and its allowed values.
    about: Option<Box<(String, String)>>,
    /// The name of a device that does not exist.
    device: Option<Box<str>>,
}

impl Error {
    /// Makes an error from an errno and a text. Takes the absolute value of a negative errno.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno: errno.saturating_abs(), message: message.into(), about: None, device: None }
    }

    /// Makes an error for a wrong value. The text names the field, the given value and the allowed values.
    pub fn invalid(field: &str, given: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        let allowed = allowed.to_string();
        let message = format!("{field} {given} is not allowed; allowed: {allowed}");
        let about = Some(Box::new((field.to_owned(), allowed)));
        Self { errno: errno::EINVAL, message, about, device: None }
    }

    /// Makes the error for a device that does not exist. Clients check the code and the text.
    #[must_use]
    pub fn no_such_device() -> Self {
        Self::new(errno::ENODEV, "No such device")
    }

    /// Makes the error for the device `name`, which does not exist. The text is that of
    /// [`no_such_device`](Self::no_such_device); the RPC error has the name in its `data`.
    #[must_use]
    pub fn no_device_named(name: &str) -> Self {
        Self { device: Some(name.into()), ..Self::no_such_device() }
    }

    /// Makes the error for a failed call on a file or folder: `cannot <verb> <path>: <why>`.
    #[must_use]
    pub fn of_file(verb: &str, path: &Path, why: &std::io::Error) -> Self {
        let errno = why.raw_os_error().unwrap_or(errno::EIO);
        Self::new(errno, format!("cannot {verb} {}: {why}", path.display()))
    }

    /// The errno, positive.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// A text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field with a wrong value and its allowed values, if the error is about a value.
    #[must_use]
    pub fn about(&self) -> Option<(&str, &str)> {
        self.about.as_deref().map(|(field, allowed)| (field.as_str(), allowed.as_str()))
    }

    /// The name of the device that does not exist, if the error has it.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// The value for the ABI and the wire: the negative errno, never 0.
    #[must_use]
    pub fn status(&self) -> i32 {
        if self.errno == 0 { -errno::EIO } else { -self.errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(errno::EIO), error.to_string())
    }
}
