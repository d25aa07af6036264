//! Kernel error numbers.

use std::{fmt, io};

/// A kernel error number, positive as in `<errno.h>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// The file was not opened for this operation, or is not attached to the ring.
    pub const BAD_FILE: Self = Self(libc::EBADF);
    /// The ring was closed before the request was executed.
    pub const CANCELED: Self = Self(libc::ECANCELED);
    /// The request is a read, but its memory is not writable.
    pub const FAULT: Self = Self(libc::EFAULT);
    /// An argument is out of range.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// The engine or the file does not support the operation; the caller may use another way.
    pub const NOT_SUPPORTED: Self = Self(libc::EOPNOTSUPP);
    /// The file accepted only part of a write.
    pub const SHORT_WRITE: Self = Self(libc::EIO);

    /// Wraps an error number; `None` unless it is positive.
    pub const fn new(number: i32) -> Option<Self> {
        if number > 0 { Some(Self(number)) } else { None }
    }

    /// The error number, which is positive.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Converts the negative result of a system call.
    pub(crate) const fn from_result(result: i32) -> Self {
        Self(result.saturating_neg())
    }

    /// The error number in `error`, or `EIO` if it has none.
    pub(crate) fn of(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The calling thread's `errno`. Call it directly after a failed system call.
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
