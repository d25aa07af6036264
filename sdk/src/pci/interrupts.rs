//! Interrupts that wake a thread.

use super::{Changes, Vector};
use crate::error::Result;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

impl Vector {
    /// Returns whether the device signaled the vector since the last call. It makes a system call, so do not call it on the data path.
    #[must_use]
    pub fn has_come(&self) -> bool {
        // SAFETY: the vector keeps its descriptor open.
        take(unsafe { BorrowedFd::borrow_raw(self.fd()) })
    }
}

impl Changes {
    /// Returns whether there was a change since the last call. It makes a system call, so do not call it on the data path.
    #[must_use]
    pub fn have_come(&self) -> bool {
        // SAFETY: the host keeps the descriptor open while the plugin runs.
        take(unsafe { BorrowedFd::borrow_raw(self.fd()) })
    }
}

/// Sets the count of an eventfd to 0, and returns whether it was more.
fn take(fd: BorrowedFd<'_>) -> bool {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).is_ok()
}

/// Vectors that one thread waits for. epoll watches them edge-triggered, so nobody has to read an eventfd, and several threads may wait for
/// the same vector.
#[derive(Debug)]
pub struct Interrupts(OwnedFd);

impl Interrupts {
    /// Creates a set without vectors.
    ///
    /// # Errors
    /// When the process or the system has no more descriptors.
    pub fn new() -> Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?))
    }

    /// A descriptor that is readable after an interrupt, for [`Poller::wake_fd`](crate::poller::Poller::wake_fd).
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// The errors of epoll_ctl(2).
    pub fn add(&self, vector: &Vector) -> Result<()> {
        // SAFETY: the vector keeps its descriptor open.
        self.watch(unsafe { BorrowedFd::borrow_raw(vector.fd()) })
    }

    /// Adds another descriptor that wakes the thread, such as that of a set of sockets. Closing the descriptor removes it. The caller must
    /// close it before its number names another file.
    ///
    /// # Errors
    /// The errors of epoll_ctl(2).
    pub fn add_fd(&self, fd: RawFd) -> Result<()> {
        // SAFETY: the call only passes the number on, and the kernel refuses a number that is not open.
        self.watch(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    fn watch(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let data = EventData::new_u64(0);
        match epoll::add(&self.0, fd, data, EventFlags::IN | EventFlags::ET) {
            // The vector is in the set already, because two queues may share a vector.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Removes a vector.
    pub fn remove(&self, vector: &Vector) {
        // SAFETY: the vector keeps its descriptor open.
        let fd = unsafe { BorrowedFd::borrow_raw(vector.fd()) };
        // An error means that the vector is not in the set.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Clears the interrupts that have arrived. [`Poll::prepare_sleep`](crate::poller::Poll::prepare_sleep) calls this first and checks
    /// the queues afterwards, so that every later interrupt wakes the thread.
    pub fn clear(&self) {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events: Vec<epoll::Event> = Vec::with_capacity(8);
        loop {
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.0, space, Some(&NOW)).is_err() || events.len() < events.capacity()
            {
                return;
            }
        }
    }
}
