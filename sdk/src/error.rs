//! How a control operation fails, and how an I/O ends.

use drivebay_plugin_api as api;
use drivebay_spec_jsonrpc::RpcError;
use std::fmt;

/// Errno values that the SDK and plugins use. Linux, `asm-generic/errno.h`.
pub mod errno {
    /// Not permitted, such as a bdev that somebody else has claimed.
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

/// The result of a control operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a positive `errno` and a text.
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

    /// The error for a negative errno that the host gave for `what`.
    pub(crate) fn from_host(status: i32, what: impl fmt::Display) -> Self {
        if status == -errno::ENODEV {
            return Self::no_such_device();
        }
        let why = std::io::Error::from_raw_os_error(status.saturating_abs()).to_string();
        // The code goes beside the text.
        let why = why.split(" (os error").next().unwrap_or_default();
        Self::new(status, format!("{what}: {why}"))
    }

    /// The positive errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// For people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What crosses the ABI: the negative errno, never 0.
    pub(crate) fn status(&self) -> i32 {
        if self.errno == 0 { -errno::EIO } else { -self.errno }
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
        Self::new(error.raw_os_error().unwrap_or(errno::EIO), error.to_string())
    }
}

/// On the wire the code is the negative errno.
impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        let code = i64::from(error.status());
        if let Some(about) = error.about {
            let (field, allowed) = *about;
            return Self::about(code, "invalid_value", error.message, field, Some(allowed));
        }
        if let Some(device) = error.device {
            return Self::no_such_device(&device);
        }
        Self::of_errno(error.errno, error.message)
    }
}

/// `Ok` for 0, else the error for a negative errno of the host.
pub(crate) fn check(status: i32, what: impl fmt::Display) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::from_host(status, what)) }
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
