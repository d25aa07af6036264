//! Errors of the control path: an errno that clients test for, and what to do about it.

use std::fmt;

/// The result of a control operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refused control operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Positive errno, such as `libc::ENODEV`.
    pub errno: i32,
    /// What was given and what is allowed.
    pub message: String,
}

impl Error {
    /// An error with a positive errno and a message for an operator.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }

    /// `-19`, as clients test for it.
    #[must_use]
    pub fn no_device() -> Self {
        Self::new(libc::ENODEV, "No such device")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.message, self.errno)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(libc::EIO), error.to_string())
    }
}
