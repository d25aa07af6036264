//! Errors of operations: why one is refused, or why it failed.

use crate::disk::DiskError;
use drivebay_spec_blobstore::{BlobError, SuperError};
use std::fmt;

/// Errno values of operations. Linux, `asm-generic/errno.h`.
pub mod errno {
    /// Not permitted.
    pub const EPERM: i32 = 1;
    /// No such volume.
    pub const ENOENT: i32 = 2;
    /// The disk failed to read or write.
    pub const EIO: i32 = 5;
    /// Another operation uses the volume.
    pub const EBUSY: i32 = 16;
    /// The name is taken.
    pub const EEXIST: i32 = 17;
    /// No such disk.
    pub const ENODEV: i32 = 19;
    /// A value or operation is not allowed.
    pub const EINVAL: i32 = 22;
    /// No cluster or metadata page is left.
    pub const ENOSPC: i32 = 28;
    /// The disk has no store, or a damaged one.
    pub const EILSEQ: i32 = 84;
}

/// An errno and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The errno, positive.
    pub errno: i32,
    /// A text for people.
    pub message: String,
}

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<DiskError> for Error {
    fn from(error: DiskError) -> Self {
        Self::new(error.0, error.to_string())
    }
}

impl From<SuperError> for Error {
    fn from(error: SuperError) -> Self {
        Self::new(errno::EILSEQ, error.to_string())
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        Self::new(errno::EINVAL, error.to_string())
    }
}
