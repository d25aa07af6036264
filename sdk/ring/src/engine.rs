//! Both engines behind one interface.
#![expect(unsafe_code, reason = "passes on the engines' contract about memory in flight")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::libaio::Libaio;
use crate::transfer::Transfer;
use crate::uring::Uring;
use crate::{BackingFile, Errno};

/// How I/O gets to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring, Linux 5.8 or later. Every operation is asynchronous.
    IoUring,
    /// Linux native AIO. It is asynchronous only for `O_DIRECT` files, and not always for these. Therefore a
    /// thread of the ring submits, so that `flush` never waits for a disk.
    Libaio,
}

impl Engine {
    /// Checks whether this kernel has the engine with all operations that a ring needs. The error says
    /// what is missing. This opens a small queue and closes it again, so call it at start-up, not on the
    /// I/O path.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EINVAL` when the kernel does not have the engine; `EPERM` when it is forbidden
    /// (`kernel.io_uring_disabled`, seccomp); `EAGAIN` when `fs.aio-max-nr` is exhausted.
    pub fn probe(self) -> io::Result<()> {
        match self {
            Self::IoUring => Uring::probe(),
            Self::Libaio => Libaio::probe(),
        }
    }
}

/// A result from the kernel: the operation's token, and the number of bytes or a negative errno.
pub(crate) type Event = (u32, i32);

/// An open queue of either engine.
#[derive(Debug)]
pub(crate) enum Queue {
    Uring(Box<Uring>),
    Libaio(Box<Libaio>),
}

impl Queue {
    pub(crate) fn new(engine: Engine, depth: u32) -> io::Result<Self> {
        Ok(match engine {
            Engine::IoUring => Self::Uring(Box::new(Uring::new(depth)?)),
            Engine::Libaio => Self::Libaio(Box::new(Libaio::new(depth)?)),
        })
    }

    /// Adds `file` to the file table at `index`.
    pub(crate) fn attach(&mut self, index: usize, file: &BackingFile) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.update_file(index, file.as_fd().as_raw_fd()),
            Self::Libaio(_) => Ok(()),
        }
    }

    /// Removes the file at `index`.
    pub(crate) fn detach(&mut self, index: usize) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.update_file(index, -1),
            Self::Libaio(_) => Ok(()),
        }
    }

    /// Queues the rest of `transfer`. The kernel gets it at the next `flush`.
    ///
    /// # Safety
    ///
    /// Until `next` or `wait` has returned the event of `token`, or the queue is dropped after `wait`
    /// has returned `None`: the memory of `transfer.rest()` and the list itself must not move and must
    /// obey the contract of [`crate::IoBuffers`], and `file` must stay open.
    pub(crate) unsafe fn push(
        &mut self,
        token: u32,
        file: &BackingFile,
        transfer: &Transfer,
    ) -> Result<(), Errno> {
        match self {
            // SAFETY: the caller's promise.
            Self::Uring(uring) => unsafe { uring.push(token, transfer) },
            // SAFETY: the caller's promise.
            Self::Libaio(aio) => unsafe { aio.push(token, file.as_fd().as_raw_fd(), transfer) },
        }
    }

    /// Submits the queued operations to the kernel. Those that the kernel has no room for stay queued.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.flush(),
            Self::Libaio(aio) => aio.flush(),
        }
    }

    /// Whether there are queued operations that the kernel does not have yet.
    pub(crate) fn has_unflushed(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.has_unflushed(),
            Self::Libaio(aio) => aio.has_unflushed(),
        }
    }

    /// Returns the next event, if there is one.
    pub(crate) fn next(&mut self) -> Option<Event> {
        match self {
            Self::Uring(uring) => uring.next(),
            Self::Libaio(aio) => aio.next(),
        }
    }

    /// Whether `next` would return an event.
    pub(crate) fn has_events(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.has_events(),
            Self::Libaio(aio) => aio.has_events(),
        }
    }

    /// Asks the kernel to cancel its operations, as far as it can.
    pub(crate) fn cancel(&mut self) {
        match self {
            Self::Uring(uring) => uring.cancel(),
            Self::Libaio(_) => {} // io_cancel works on neither files nor block devices.
        }
    }

    /// Returns the next event. Waits while the kernel has operations; `None` when it has none.
    pub(crate) fn wait(&mut self) -> io::Result<Option<Event>> {
        match self {
            Self::Uring(uring) => uring.wait(),
            Self::Libaio(aio) => aio.wait(),
        }
    }

    pub(crate) fn event_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uring(uring) => uring.events.borrow(),
            Self::Libaio(aio) => aio.events.borrow(),
        }
    }

    /// Enables the eventfd's signals and discards earlier ones.
    pub(crate) fn arm(&mut self) {
        match self {
            Self::Uring(uring) => uring.arm(),
            Self::Libaio(aio) => aio.events.drain(),
        }
    }

    pub(crate) fn disarm(&mut self) {
        match self {
            Self::Uring(uring) => uring.disarm(),
            Self::Libaio(_) => {} // libaio sets signals per operation, at submission.
        }
    }
}
