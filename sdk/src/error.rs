//! Errors of control operations, and statuses of I/Os.

use drivebay_plugin_api as api;
use std::fmt;

pub use drivebay_spec_errno::{Error, Result, errno};

/// Makes the error for a negative errno that the host returned from `what`.
pub(crate) fn from_host(status: i32, what: impl fmt::Display) -> Error {
    if status == -errno::ENODEV {
        return Error::no_such_device();
    }
    let why = std::io::Error::from_raw_os_error(status.saturating_abs()).to_string();
    // The error code is shown next to the text, so cut it off here.
    let why = why.split(" (os error").next().unwrap_or_default();
    Error::new(status, format!("{what}: {why}"))
}

/// Returns `Ok` for 0, or the error for a negative errno from the host.
pub(crate) fn check(status: i32, what: impl fmt::Display) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(from_host(status, what)) }
}

/// The status of a completed I/O: 0, a negative errno, or a `BAY_ST_*` of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(i32);

impl Status {
    /// The I/O succeeded.
    pub const SUCCESS: Self = Self(0);
    /// The device failed to read or write.
    pub const IO_ERROR: Self = Self::errno(errno::EIO);
    /// The request is not allowed.
    pub const INVALID: Self = Self::errno(errno::EINVAL);
    /// The op is not supported.
    pub const NOT_SUPPORTED: Self = Self::errno(errno::EOPNOTSUPP);
    /// The I/O to abort was not found.
    pub const NOT_FOUND: Self = Self::errno(errno::ENOENT);
    /// A resource is used up for now: the bus submits the I/O again later. Not allowed for a reset.
    pub const NO_RESOURCE: Self = Self(api::BAY_ST_NOMEM);
    /// The module returned the I/O without starting it; the bus submits it again.
    pub const REQUEUE: Self = Self(api::BAY_ST_REQUEUE);
    /// The I/O was aborted on request.
    pub const ABORTED: Self = Self(api::BAY_ST_ABORTED);
    /// A compare found a difference.
    pub const MISCOMPARE: Self = Self(api::BAY_ST_MISCOMPARE);
    /// The medium lost the data.
    pub const MEDIA: Self = Self(api::BAY_ST_MEDIA);

    /// The status for a positive errno.
    #[must_use]
    pub const fn errno(errno: i32) -> Self {
        Self(-errno)
    }

    /// Makes a status from its ABI value.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The ABI value.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether the I/O succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl From<Result<(), Self>> for Status {
    fn from(result: Result<(), Self>) -> Self {
        result.err().unwrap_or(Self::SUCCESS)
    }
}
