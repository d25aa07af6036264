//! The two engines behind one face.
#![expect(unsafe_code, reason = "passes on the engines' contract about memory in flight")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::libaio::Libaio;
use crate::transfer::Transfer;
use crate::uring::Uring;
use crate::{BackingFile, Errno};

/// How I/O reaches the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring, Linux 5.8 or later; every operation is asynchronous.
    IoUring,
    /// Linux native AIO, which itself is asynchronous only for `O_DIRECT` files, and not always for
    /// them: a thread of the ring submits, so that `flush` never waits for a disk.
    Libaio,
}

impl Engine {
    /// Whether this kernel has the engine, with all the operations a ring needs; the error says
    /// why not. Opens a small queue and closes it again: for start-up, not for the I/O path.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EINVAL` from a kernel without it; `EPERM` where it is forbidden
    /// (`kernel.io_uring_disabled`, seccomp); `EAGAIN` where `fs.aio-max-nr` is used up.
    pub fn probe(self) -> io::Result<()> {
        match self {
            Self::IoUring => Uring::probe(),
            Self::Libaio => Libaio::probe(),
        }
    }
}

/// A result from the kernel: the token of the operation, and bytes or a negative error number.
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

    /// Makes `file` known at `index` of the file table.
    pub(crate) fn attach(&mut self, index: usize, file: &BackingFile) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.update_file(index, file.as_fd().as_raw_fd()),
            Self::Libaio(_) => Ok(()),
        }
    }

    /// Forgets the file at `index`.
    pub(crate) fn detach(&mut self, index: usize) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.update_file(index, -1),
            Self::Libaio(_) => Ok(()),
        }
    }

    /// Queues the rest of `transfer`; the kernel sees it at the next `flush`.
    ///
    /// # Safety
    ///
    /// Until the event of `token` has come out of `next` or `wait`, or the queue is dropped after
    /// `wait` has returned `None`: the memory of `transfer.rest()` and the list itself must stay
    /// where they are, and keep the promise of [`crate::IoBuffers`]; `file` must stay open.
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

    /// Shows the kernel what was pushed. What it has no room for now stays queued.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.flush(),
            Self::Libaio(aio) => aio.flush(),
        }
    }

    /// Whether something was pushed that the kernel has not taken yet.
    pub(crate) fn has_unflushed(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.has_unflushed(),
            Self::Libaio(aio) => aio.has_unflushed(),
        }
    }

    /// The next event, if one is there.
    pub(crate) fn next(&mut self) -> Option<Event> {
        match self {
            Self::Uring(uring) => uring.next(),
            Self::Libaio(aio) => aio.next(),
        }
    }

    /// Whether `next` would find an event.
    pub(crate) fn has_events(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.has_events(),
            Self::Libaio(aio) => aio.has_events(),
        }
    }

    /// Asks the kernel to give up what it has, as far as it can.
    pub(crate) fn cancel(&mut self) {
        match self {
            Self::Uring(uring) => uring.cancel(),
            Self::Libaio(_) => {} // No file or block device supports io_cancel.
        }
    }

    /// The next event, waiting for it while the kernel has anything; `None` when it has nothing.
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

    /// Turns the eventfd on, and forgets earlier wake-ups.
    pub(crate) fn arm(&mut self) {
        match self {
            Self::Uring(uring) => uring.arm(),
            Self::Libaio(aio) => aio.events.drain(),
        }
    }

    pub(crate) fn disarm(&mut self) {
        match self {
            Self::Uring(uring) => uring.disarm(),
            Self::Libaio(_) => {} // Decided at submission, for each operation.
        }
    }
}
