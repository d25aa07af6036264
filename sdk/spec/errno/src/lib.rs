//! How a control operation fails: an errno for programs and a text for people.
//!
//! Host, SDK and plugins use this one type. Values are those of Linux,
//! `include/uapi/asm-generic/errno-base.h` and `errno.h`.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

/// Errno values that the SDK and plugins use.
pub mod errno {
    /// Not permitted, such as a bdev that somebody else has claimed, or a call off the app thread.
    pub const EPERM: i32 = 1;
    /// No such thing.
    pub const ENOENT: i32 = 2;
    /// Input or output failed.
    pub const EIO: i32 = 5;
    /// Would block.
    pub const EAGAIN: i32 = 11;
    /// No memory.
    pub const ENOMEM: i32 = 12;
    /// A fault in the callee.
    pub const EFAULT: i32 = 14;
    /// In use.
    pub const EBUSY: i32 = 16;
    /// Exists already.
    pub const EEXIST: i32 = 17;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// A value that is not allowed.
    pub const EINVAL: i32 = 22;
    /// No space.
    pub const ENOSPC: i32 = 28;
    /// Read-only.
    pub const EROFS: i32 = 30;
    /// Function not implemented.
    pub const ENOSYS: i32 = 38;
    /// Not supported.
    pub const EOPNOTSUPP: i32 = 95;
    /// Not done in time.
    pub const ETIMEDOUT: i32 = 110;
    /// Canceled.
    pub const ECANCELED: i32 = 125;
}

/// The result of a control operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a control operation failed: an errno and a text that names the field and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    message: String,
    /// The field at fault and what it allows.
    about: Option<Box<(String, String)>>,
    /// The device that does not exist.
    device: Option<Box<str>>,
}

impl Error {
    /// An error with an errno and a text. A negative errno is taken as its positive.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno: errno.saturating_abs(), message: message.into(), about: None, device: None }
    }

    /// A value that is not allowed: names the field, what was given and what is allowed.
    pub fn invalid(field: &str, given: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        let allowed = allowed.to_string();
        let message = format!("{field} {given} is not allowed; allowed: {allowed}");
        let about = Some(Box::new((field.to_owned(), allowed)));
        Self { errno: errno::EINVAL, message, about, device: None }
    }

    /// The named device does not exist. Clients test code and text.
    #[must_use]
    pub fn no_such_device() -> Self {
        Self::new(errno::ENODEV, "No such device")
    }

    /// The device `name` does not exist. The text is that of
    /// [`no_such_device`](Self::no_such_device); the RPC error's `data` carries the name.
    #[must_use]
    pub fn no_device_named(name: &str) -> Self {
        Self { device: Some(name.into()), ..Self::no_such_device() }
    }

    /// A failed call on a file or folder: `cannot <verb> <path>: <why>`.
    #[must_use]
    pub fn of_file(verb: &str, path: &Path, why: &std::io::Error) -> Self {
        let errno = why.raw_os_error().unwrap_or(errno::EIO);
        Self::new(errno, format!("cannot {verb} {}: {why}", path.display()))
    }

    /// The positive errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// For people: what was given and what is allowed.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field at fault and what it allows, of a value that is not allowed.
    #[must_use]
    pub fn about(&self) -> Option<(&str, &str)> {
        self.about.as_deref().map(|(field, allowed)| (field.as_str(), allowed.as_str()))
    }

    /// The device that does not exist, if the error names one.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// What crosses the ABI and goes on the wire: the negative errno, never 0.
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
