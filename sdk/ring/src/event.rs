//! The eventfd with which a ring wakes its owner.
#![expect(unsafe_code, reason = "eventfd(2) and poll(2) have no safe wrapper in std")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A non-blocking eventfd.
#[derive(Debug)]
pub(crate) struct EventFd(File);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has just created the descriptor, and it has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(fd.into()))
    }

    /// Discards the signals received so far, so that only a later one makes the fd readable.
    pub(crate) fn drain(&self) {
        // The only possible error means that there is no signal.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    /// Makes the fd readable. Callable on any thread.
    pub(crate) fn signal(&self) {
        // Any number works. The only possible error means that the counter is full, so the fd is readable already.
        let _ = (&self.0).write(&[1; 8]);
    }

    /// Waits until the fd is readable, then discards the signals.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.raw(), events: libc::POLLIN, revents: 0 };
        // SAFETY: there is one entry, which is valid for the call.
        let result = unsafe { libc::poll(&raw mut poll, 1, -1) };
        let error = io::Error::last_os_error();
        if result < 0 && error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
        self.drain();
        Ok(())
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
