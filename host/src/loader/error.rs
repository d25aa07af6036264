//! Why the loader did not do what it was asked to.

use std::fmt;
use std::path::Path;

/// A refusal: an errno for programs, one readable line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    message: String,
}

impl Error {
    /// A refusal with a positive errno of `libc`.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }

    /// A failed call on a file or folder: `cannot <verb> <path>: <why>`.
    pub(super) fn of_file(verb: &str, path: &Path, why: &std::io::Error) -> Self {
        let errno = why.raw_os_error().unwrap_or(libc::EIO);
        Self::new(errno, format!("cannot {verb} {}: {why}", path.display()))
    }

    /// The errno, positive; an RPC answers with its negative.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// What was found and what is required.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The loader's result.
pub type Result<T> = std::result::Result<T, Error>;
