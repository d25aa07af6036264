//! The ring: takes requests and returns completions.
#![expect(unsafe_code, reason = "passes memory to the engine that the slots keep valid")]

use std::collections::VecDeque;
use std::mem::{self, ManuallyDrop};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::{fmt, io};

use crate::engine::Queue;
use crate::slots::Slots;
use crate::transfer::Next;
use crate::{BackingFile, Engine, Errno, IoBuffers, Op};

/// Maximum depth of a ring, in requests.
pub const MAX_DEPTH: u32 = 4096;

/// Maximum number of files attached to one ring.
pub const MAX_FILES: usize = 64;

/// One thread's queue of file I/O.
///
/// A request is in one of four states. `push` puts it into the ring, `reap` takes it out:
///
/// ```text
/// pushed ──flush──► in the kernel ──event──► settled ──reap──► returned
///                         ▲                     │
///                         └── short: the rest ──┘
/// ```
///
/// Dropping a ring cancels the operations that can be canceled, waits for the rest, and then drops the
/// requests. [`close`](Self::close) does the same but returns the requests.
// Invariant: the slot of a token has the request and the segment list that the kernel may access for
// it. Both stay there unchanged until the queue has returned the event. The file stays in `files` as
// long (`detach` refuses).
#[derive(Debug)]
pub struct Ring<T: IoBuffers> {
    queue: Queue,
    slots: Slots<T>,
    files: Vec<Option<Arc<BackingFile>>>,
    /// Results whose requests were not returned yet.
    settled: VecDeque<(u32, Result<u32, Errno>)>,
}

/// Index of a file in a ring, from [`Ring::attach`]. It is not valid in another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIndex(usize);

/// A completed request and its result.
#[derive(Debug)]
pub struct Completion<T> {
    /// The request, which the caller owns again.
    pub request: T,
    /// Number of bytes read or written (0 for operations without data), or the kernel's error.
    pub result: Result<u32, Errno>,
}

/// The ring already has `depth` requests in flight. The caller gets its request back.
#[derive(Debug)]
pub struct Full<T>(pub T);

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full: it has as many requests in flight as its depth")
    }
}

impl<T: fmt::Debug> std::error::Error for Full<T> {}

/// Whether the owner of a ring may sleep on its eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "sleeping while there is work would miss the wake-up"]
pub enum Armed {
    /// The next completion will make the eventfd readable.
    MaySleep,
    /// There is already something to reap or flush.
    WorkWaiting,
}

impl<T: IoBuffers> Ring<T> {
    /// Opens a ring for at most `depth` requests at a time, 1 to [`MAX_DEPTH`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for another depth; otherwise as [`Engine::probe`], and `ENOMEM` when the memory for
    /// the queue cannot be locked.
    pub fn new(engine: Engine, depth: u32) -> io::Result<Self> {
        if !(1..=MAX_DEPTH).contains(&depth) {
            let text = format!("depth {depth} must be 1 to {MAX_DEPTH}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            queue: Queue::new(engine, depth)?,
            slots: Slots::new(depth),
            files: Vec::new(),
            settled: VecDeque::with_capacity(depth as usize),
        })
    }

    /// Adds a file to this ring, which keeps it open until [`detach`](Self::detach).
    ///
    /// # Errors
    ///
    /// `EMFILE` when [`MAX_FILES`] files are attached; `EBADF` for a file that io_uring does not accept.
    pub fn attach(&mut self, file: Arc<BackingFile>) -> io::Result<FileIndex> {
        let free = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if free >= MAX_FILES {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.queue.attach(free, &file)?;
        match self.files.get_mut(free) {
            Some(place) => *place = Some(file),
            None => self.files.push(Some(file)),
        }
        Ok(FileIndex(free))
    }

    /// Removes a file from this ring.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not attached, `EBUSY` while requests on it are in flight.
    pub fn detach(&mut self, file: FileIndex) -> io::Result<()> {
        let place = self.files.get_mut(file.0).filter(|place| place.is_some());
        let place = place.ok_or(Errno::BAD_FILE)?;
        if self.slots.iter_occupied().any(|(_, slot)| slot.transfer.file == file.0) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.queue.detach(file.0)?;
        *place = None;
        Ok(())
    }

    /// Queues one operation on a file. The kernel gets it at the next [`flush`](Self::flush).
    ///
    /// The ring also accepts a request that cannot be executed (a file that is not attached, a range past
    /// `i64::MAX`, more segments than the kernel allows). It completes with the error.
    ///
    /// # Errors
    ///
    /// [`Full`] returns the request when `depth` requests are in flight.
    pub fn push(&mut self, op: Op, file: FileIndex, request: T) -> Result<(), Full<T>> {
        let (token, slot) = self.slots.insert(request).map_err(Full)?;
        let started = match (self.files.get(file.0), slot.request_and_transfer()) {
            (Some(Some(backing)), (Some(request), transfer)) => {
                transfer.start(op, file.0, backing.progress_unit(), request)
            }
            _ => Err(Errno::BAD_FILE),
        };
        match started {
            Ok(()) => self.enqueue(token),
            Err(errno) => self.settle(token, Err(errno)),
        }
        Ok(())
    }

    /// Submits all queued operations to the kernel with one system call, or with none if there are none.
    /// Operations that the kernel has no room for stay queued for the next `flush`.
    ///
    /// # Errors
    ///
    /// The errors of the queue itself. The error of a request is in its completion.
    pub fn flush(&mut self) -> io::Result<()> {
        self.queue.flush()
    }

    /// Passes every available completion to `done`. Returns their number.
    ///
    /// Reads the queue in memory shared with the kernel. Makes a system call only for the rest of a short
    /// transfer, and when io_uring has marked that it needs one.
    pub fn reap(&mut self, mut done: impl FnMut(Completion<T>)) -> usize {
        let mut count = 0;
        while let Some(completion) = self.next_completion() {
            done(completion);
            count += 1;
        }
        count
    }

    /// Returns one completion, if there is one. For owners that push while they reap.
    pub fn next_completion(&mut self) -> Option<Completion<T>> {
        loop {
            if let Some((token, result)) = self.settled.pop_front() {
                if let Some(request) = self.slots.remove(token) {
                    return Some(Completion { request, result });
                }
                continue;
            }
            let (token, result) = self.queue.next()?;
            self.take_event(token, result);
        }
    }

    /// Number of requests that were pushed and not returned yet.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// The eventfd that becomes readable when a request completes, once the ring is armed.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.queue.event_fd()
    }

    /// Prepares for sleep on [`event_fd`](Self::event_fd): flushes, enables the signals, discards earlier
    /// ones, and then checks again for work. Sleep only if the result is `MaySleep`.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub fn arm(&mut self) -> io::Result<Armed> {
        self.flush()?;
        self.queue.arm();
        let waiting =
            !self.settled.is_empty() || self.queue.has_unflushed() || self.queue.has_events();
        Ok(if waiting { Armed::WorkWaiting } else { Armed::MaySleep })
    }

    /// Disables the eventfd's signals, for polling. Does nothing for libaio, which enables them for every
    /// operation at submission.
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// Cancels the operations that can be canceled, waits for the rest, and returns every request. A
    /// request that was not executed, or only in part, completes with [`Errno::CANCELED`].
    ///
    /// Blocks for as long as the device needs.
    pub fn close(mut self, mut done: impl FnMut(Completion<T>)) {
        if self.quiesce().is_err() {
            return; // Dropping the ring keeps the memory that the kernel may still use.
        }
        while let Some((token, result)) = self.settled.pop_front() {
            if let Some(request) = self.slots.remove(token) {
                done(Completion { request, result });
            }
        }
    }

    /// Handles an event: settles the request, or submits the rest of it.
    fn take_event(&mut self, token: u32, result: i32) {
        let Some(slot) = self.slots.occupied(token) else {
            debug_assert!(false, "an event for token {token}, which is not in flight");
            return;
        };
        match slot.transfer.advance(result) {
            Next::Done(result) => self.settle(token, result),
            Next::Again => {
                self.enqueue(token);
                // The owner's next flush reports errors of the queue.
                let _ = self.queue.flush();
            }
        }
    }

    /// Queues the rest of an operation in the engine.
    fn enqueue(&mut self, token: u32) {
        let Some(slot) = self.slots.occupied(token) else { return };
        let pushed = match self.files.get(slot.transfer.file) {
            // SAFETY: the slot keeps the request and the segment list. The request's type promises that
            // its memory stays valid until it is dropped. The list changes only after the event
            // (`take_event`), or by `start` after the request was returned. A request is returned or
            // dropped only after its event, or when `quiesce` has seen that the kernel has no operation
            // left; `detach` keeps the file until then.
            Some(Some(file)) => unsafe { self.queue.push(token, file, &slot.transfer) },
            _ => Err(Errno::BAD_FILE),
        };
        if let Err(errno) = pushed {
            self.settle(token, Err(errno));
        }
    }

    fn settle(&mut self, token: u32, result: Result<u32, Errno>) {
        if let Some(slot) = self.slots.occupied(token) {
            slot.settled = true;
            self.settled.push_back((token, result));
        }
    }

    /// Waits until the kernel has no operation of this ring, and settles every request. Do not flush
    /// afterwards: the queue may still have entries of requests that are gone.
    fn quiesce(&mut self) -> io::Result<()> {
        self.queue.cancel();
        while let Some((token, result)) = self.queue.wait()? {
            if let Some(slot) = self.slots.occupied(token) {
                match slot.transfer.advance(result) {
                    Next::Done(result) => self.settle(token, result),
                    Next::Again => self.settle(token, Err(Errno::CANCELED)),
                }
            }
        }
        for (token, slot) in self.slots.iter_occupied().filter(|(_, slot)| !slot.settled) {
            slot.settled = true;
            self.settled.push_back((token, Err(Errno::CANCELED)));
        }
        Ok(())
    }
}

impl<T: IoBuffers> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.quiesce().is_err() {
            // The kernel may still use the memory, and there is no way to find out, so leak it.
            let _leaked = ManuallyDrop::new(mem::take(&mut self.slots));
        }
    }
}
