//! How a control operation fails, and how an I/O ends.

use drivebay_plugin_api as api;
use std::fmt;

pub use drivebay_spec_errno::{Error, Result, errno};

/// The error for a negative errno that the host gave for `what`.
pub(crate) fn from_host(status: i32, what: impl fmt::Display) -> Error {
    if status == -errno::ENODEV {
        return Error::no_such_device();
    }
    let why = std::io::Error::from_raw_os_error(status.saturating_abs()).to_string();
    // The code goes beside the text.
    let why = why.split(" (os error").next().unwrap_or_default();
    Error::new(status, format!("{what}: {why}"))
}

/// `Ok` for 0, else the error for a negative errno of the host.
pub(crate) fn check(status: i32, what: impl fmt::Display) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(from_host(status, what)) }
}

/// How an I/O ended: 0, a negative errno, or a `BAY_ST_*` of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(i32);

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// Input or output failed.
    pub const IO_ERROR: Self = Self::errno(errno::EIO);
    /// The request is not allowed.
    pub const INVALID: Self = Self::errno(errno::EINVAL);
    /// The op is not supported.
    pub const NOT_SUPPORTED: Self = Self::errno(errno::EOPNOTSUPP);
    /// The I/O to abort was not found.
    pub const NOT_FOUND: Self = Self::errno(errno::ENOENT);
    /// No resource now: the bus submits the I/O again. Not allowed for a reset.
    pub const NO_RESOURCE: Self = Self(api::BAY_ST_NOMEM);
    /// Given back unstarted.
    pub const REQUEUE: Self = Self(api::BAY_ST_REQUEUE);
    /// Aborted on request.
    pub const ABORTED: Self = Self(api::BAY_ST_ABORTED);
    /// Compare found a difference.
    pub const MISCOMPARE: Self = Self(api::BAY_ST_MISCOMPARE);
    /// The medium lost the data.
    pub const MEDIA: Self = Self(api::BAY_ST_MEDIA);

    /// The status for a positive errno.
    #[must_use]
    pub const fn errno(errno: i32) -> Self {
        Self(-errno)
    }

    /// The status as it crosses the ABI.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// As it crosses the ABI.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether the I/O did what it should.
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
