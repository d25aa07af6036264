//! The ring: requests in, completions out.
#![expect(unsafe_code, reason = "hands the engine memory that the slots keep valid")]

use std::collections::VecDeque;
use std::mem::{self, ManuallyDrop};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::{fmt, io};

use crate::engine::Queue;
use crate::slots::Slots;
use crate::transfer::Next;
use crate::{BackingFile, Engine, Errno, IoBuffers, Op};

/// The largest depth of a ring, in requests.
pub const MAX_DEPTH: u32 = 4096;

/// The most files that one ring can have attached at a time.
pub const MAX_FILES: usize = 64;

/// One thread's queue of file I/O.
///
/// A request is in one of four states; `push` and `reap` are the doors:
///
/// ```text
/// pushed ──flush──► in the kernel ──event──► settled ──reap──► handed back
///                         ▲                     │
///                         └── short: the rest ──┘
/// ```
///
/// Dropping a ring cancels what can be cancelled, waits for the rest, and only then drops the
/// requests. [`close`](Self::close) does the same and hands them back.
// Invariant: what the kernel may touch for a token is named by the slot of that token, whose
// request and segment list stay there, unchanged, until the queue has given the event. The file
// stays in `files` as long (`detach` refuses).
#[derive(Debug)]
pub struct Ring<T: IoBuffers> {
    queue: Queue,
    slots: Slots<T>,
    files: Vec<Option<Arc<BackingFile>>>,
    /// Results whose requests are still to be handed back.
    settled: VecDeque<(u32, Result<u32, Errno>)>,
}

/// A file's place in a ring, from [`Ring::attach`]. It means nothing to another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIndex(usize);

/// A request that is done, and what became of it.
#[derive(Debug)]
pub struct Completion<T> {
    /// The request, handed back.
    pub request: T,
    /// Bytes read or written (0 for operations without data), or the kernel's error.
    pub result: Result<u32, Errno>,
}

/// The ring had `depth` requests in flight: the request is handed back, untouched.
#[derive(Debug)]
pub struct Full<T>(pub T);

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full: as many requests are in flight as it is deep")
    }
}

impl<T: fmt::Debug> std::error::Error for Full<T> {}

/// Whether the owner of a ring may sleep on its eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "sleeping when work is waiting loses its wake-up"]
pub enum Armed {
    /// The next completion will make the eventfd readable.
    MaySleep,
    /// Something is to be reaped or flushed already.
    WorkWaiting,
}

impl<T: IoBuffers> Ring<T> {
    /// Opens a ring for at most `depth` requests at a time, 1 to [`MAX_DEPTH`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for another depth; else as [`Engine::probe`], and `ENOMEM` where the memory
    /// for the queue cannot be locked.
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

    /// Makes a file usable in this ring, which keeps it open until [`detach`](Self::detach).
    ///
    /// # Errors
    ///
    /// `EMFILE` when [`MAX_FILES`] are attached; `EBADF` for a file io_uring cannot take.
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

    /// Lets go of a file.
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

    /// Queues one operation on a file. The kernel sees it at the next [`flush`](Self::flush).
    ///
    /// A request that cannot be carried out (a file that is not attached, a range past `i64::MAX`,
    /// more segments than the kernel takes) is accepted, too, and completes with that error.
    ///
    /// # Errors
    ///
    /// [`Full`] hands the request back when `depth` requests are in flight.
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

    /// Shows the kernel everything pushed since the last time, in one system call; none if there
    /// is nothing. What the kernel has no room for now is kept for the next `flush`.
    ///
    /// # Errors
    ///
    /// Only what is wrong with the queue itself. What is wrong with a request is its completion's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.queue.flush()
    }

    /// Hands every completion that is there to `done`, and returns how many there were.
    ///
    /// Looks at the queue in memory shared with the kernel; makes a system call only for the rest
    /// of a short transfer, and where io_uring has marked that it waits for one.
    pub fn reap(&mut self, mut done: impl FnMut(Completion<T>)) -> usize {
        let mut count = 0;
        while let Some(completion) = self.next_completion() {
            done(completion);
            count += 1;
        }
        count
    }

    /// One completion, if there is one: for owners that push while they reap.
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

    /// Requests pushed and not yet handed back.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// The eventfd that becomes readable when something completes, once the ring is armed.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.queue.event_fd()
    }

    /// Prepares for sleep on [`event_fd`](Self::event_fd): flushes, turns its signals on, forgets
    /// those that came earlier, and then looks again. Sleep only if the answer is `MaySleep`.
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

    /// Turns the eventfd's signals off, for polling. libaio decides at submission, and always for
    /// signals; there it does nothing.
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// Cancels what can be cancelled, waits for the rest and hands every request back. What was
    /// not carried out, or only in part, completes with [`Errno::CANCELED`].
    ///
    /// Blocks; how long is up to the device.
    pub fn close(mut self, mut done: impl FnMut(Completion<T>)) {
        if self.quiesce().is_err() {
            return; // Dropping the ring keeps what the kernel may still use.
        }
        while let Some((token, result)) = self.settled.pop_front() {
            if let Some(request) = self.slots.remove(token) {
                done(Completion { request, result });
            }
        }
    }

    /// Takes an event in: settles the request, or has the rest of it done.
    fn take_event(&mut self, token: u32, result: i32) {
        let Some(slot) = self.slots.occupied(token) else {
            debug_assert!(false, "an event for token {token}, which is not in flight");
            return;
        };
        match slot.transfer.advance(result) {
            Next::Done(result) => self.settle(token, result),
            Next::Again => {
                self.enqueue(token);
                // What is wrong with the queue is for the owner's next flush to report.
                let _ = self.queue.flush();
            }
        }
    }

    /// Gives the rest of an operation to the engine.
    fn enqueue(&mut self, token: u32) {
        let Some(slot) = self.slots.occupied(token) else { return };
        let pushed = match self.files.get(slot.transfer.file) {
            // SAFETY: the slot keeps the request, whose type promises that its memory stays valid
            // until it is dropped, and the segment list, which is changed only after the event
            // (`take_event`) or by `start` after the request was handed back. Requests are handed
            // back or dropped only after their event, or when `quiesce` has seen the kernel done;
            // `detach` keeps the file until then.
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

    /// Waits until the kernel has nothing of ours, and settles every request. Nothing may be
    /// flushed after that: the queue may still hold entries of requests that are gone.
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
            // The kernel may still use the memory and cannot be asked: leaking it is all we can do.
            let _leaked = ManuallyDrop::new(mem::take(&mut self.slots));
        }
    }
}
