//! Kernel error numbers.

use std::{fmt, io};

/// A kernel error number, positive as in `<errno.h>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// The file was not open for this, or is not attached to the ring.
    pub const BAD_FILE: Self = Self(libc::EBADF);
    /// The ring was closed before the request was carried out.
    pub const CANCELED: Self = Self(libc::ECANCELED);
    /// The request's memory must not be written to, but a read was asked for.
    pub const FAULT: Self = Self(libc::EFAULT);
    /// An argument is out of its range.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// The engine or the file cannot do this operation; the caller may do it another way.
    pub const NOT_SUPPORTED: Self = Self(libc::EOPNOTSUPP);
    /// The file took only part of a write, and would not take the rest.
    pub const SHORT_WRITE: Self = Self(libc::EIO);

    /// Wraps an error number; `None` unless it is positive.
    pub const fn new(number: i32) -> Option<Self> {
        if number > 0 { Some(Self(number)) } else { None }
    }

    /// The positive error number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// What a system call's negative result says.
    pub(crate) const fn from_result(result: i32) -> Self {
        Self(result.saturating_neg())
    }

    /// The number inside `error`, or `EIO` where it has none.
    pub(crate) fn of(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The calling thread's `errno`, straight after a failed system call.
    pub(crate) fn last() -> Self {
        Self::of(&io::Error::last_os_error())
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({self})")
    }
}

impl std::error::Error for Errno {}
