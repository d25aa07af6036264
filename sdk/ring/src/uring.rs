//! The io_uring engine.
//!
//! It does not use `SINGLE_ISSUER`, because an io_channel may move to another reactor. `COOP_TASKRUN`
//! avoids interrupts of the submitting CPU. Instead the kernel marks the ring when it has work to run,
//! and only then does `next` make a system call.
#![expect(unsafe_code, reason = "the kernel accesses the memory that its entries point to")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};

use io_uring::types::{CancelBuilder, Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};

use crate::engine::Event;
use crate::event::EventFd;
use crate::op::Op;
use crate::ring::MAX_FILES;
use crate::transfer::Transfer;
use crate::{Errno, Segment};

/// `IORING_ENTER_GETEVENTS`: run work that is due, and wait for the requested number of events.
const GETEVENTS: u32 = 1;

/// An io_uring with a table of registered files.
pub(crate) struct Uring {
    ring: IoUring,
    pub(crate) events: EventFd,
    /// Number of operations that the kernel has accepted and not completed.
    in_kernel: usize,
}

impl Uring {
    pub(crate) fn probe() -> io::Result<()> {
        let ring = build(1)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if needed.into_iter().all(|code| probe.is_supported(code)) {
            Ok(())
        } else {
            Err(Errno::NOT_SUPPORTED.into())
        }
    }

    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        // The completion queue has twice as many entries, so `depth` operations cannot overflow it.
        let mut ring = build(depth)?;
        let events = EventFd::new()?;
        ring.submitter().register_files(&[-1; MAX_FILES])?;
        ring.submitter().register_eventfd(events.raw())?;
        ring.completion().disable_eventfd();
        Ok(Self { ring, events, in_kernel: 0 })
    }

    pub(crate) fn update_file(&mut self, index: usize, fd: RawFd) -> io::Result<()> {
        let index = u32::try_from(index).map_err(|_| Errno::INVALID)?;
        self.ring.submitter().register_files_update(index, &[fd]).map(drop)
    }

    /// # Safety
    ///
    /// As [`Queue::push`](crate::engine::Queue::push).
    pub(crate) unsafe fn push(&mut self, token: u32, transfer: &Transfer) -> Result<(), Errno> {
        let entry = entry(transfer)?.user_data(u64::from(token));
        // SAFETY: the caller's promise.
        unsafe { self.push_entry(entry) }
    }

    /// Queues an entry, whose user data is a 32-bit token.
    ///
    /// # Safety
    ///
    /// The memory that the entry points to stays valid until its event.
    pub(crate) unsafe fn push_entry(&mut self, entry: squeue::Entry) -> Result<(), Errno> {
        let mut submission = self.ring.submission();
        // SAFETY: the caller's promise.
        let pushed = unsafe { submission.push(&entry) };
        pushed.map_err(|_full| Errno::from_result(-libc::EBUSY))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.has_unflushed() {
            match self.ring.submit() {
                Ok(0) => break,
                Ok(taken) => self.in_kernel += taken,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => break,
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn has_unflushed(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        self.pop().or_else(|| {
            self.run_due_work();
            self.pop()
        })
    }

    pub(crate) fn has_events(&mut self) -> bool {
        self.run_due_work();
        !self.ring.completion().is_empty()
    }

    pub(crate) fn cancel(&mut self) {
        if self.in_kernel > 0 {
            // This only saves time, and it needs Linux 6.0. The ring waits for what is not canceled.
            let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        }
    }

    pub(crate) fn wait(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.pop() {
                return Ok(Some(event));
            }
            if self.in_kernel == 0 {
                return Ok(None);
            }
            match self.enter(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
        }
    }

    pub(crate) fn arm(&mut self) {
        self.ring.completion().enable_eventfd();
        self.events.drain();
        // The kernel must see the flag before this thread reads the queue.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn disarm(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Takes the next event from the completion queue, in user memory.
    fn pop(&mut self) -> Option<Event> {
        let event = self.ring.completion().next()?;
        self.in_kernel = self.in_kernel.saturating_sub(1);
        // Every entry has a 32-bit token (`push_entry`).
        u32::try_from(event.user_data()).ok().map(|token| (token, event.result()))
    }

    /// Lets the kernel run the work that it has marked as due on this thread.
    fn run_due_work(&mut self) {
        if self.ring.submission().taskrun() {
            // Even if the call is interrupted, the remaining work stays marked.
            let _ = self.enter(0);
        }
    }

    /// Waits for `events` events without submitting anything.
    fn enter(&self, events: u32) -> io::Result<usize> {
        // SAFETY: the call submits no entry and passes no argument, so the kernel reads no memory of this process.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, events, GETEVENTS, None) }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("in_kernel", &self.in_kernel).finish_non_exhaustive()
    }
}

/// Sets up a ring. Leaves out newer flags that the kernel does not know.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork();
    let mut newer = builder.clone();
    newer.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    match newer.build(entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(entries),
        other => other,
    }
}

/// Makes the submission queue entry for the rest of `transfer`.
fn entry(transfer: &Transfer) -> Result<squeue::Entry, Errno> {
    let file = Fixed(u32::try_from(transfer.file).map_err(|_| Errno::BAD_FILE)?);
    let at = transfer.offset();
    let segments = transfer.rest();
    let iovecs = segments.as_ptr().cast::<libc::iovec>();
    // `Transfer::start` has limited segments and bytes to the range of these types.
    let count = u32::try_from(segments.len()).map_err(|_| Errno::INVALID)?;
    let single = match *segments {
        [Segment { ptr, len }] => Some((ptr, u32::try_from(len).map_err(|_| Errno::INVALID)?)),
        _ => None,
    };
    let entry = match transfer.op() {
        Op::Read { .. } => match single {
            Some((ptr, len)) => opcode::Read::new(file, ptr, len).offset(at).build(),
            None => opcode::Readv::new(file, iovecs, count).offset(at).build(),
        },
        Op::Write { durable, .. } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            match single {
                Some((ptr, len)) => {
                    opcode::Write::new(file, ptr, len).offset(at).rw_flags(flags).build()
                }
                None => opcode::Writev::new(file, iovecs, count).offset(at).rw_flags(flags).build(),
            }
        }
        Op::Fdatasync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Op::Fsync => opcode::Fsync::new(file).build(),
        op @ (Op::PunchHole { .. } | Op::ZeroRange { .. }) => {
            let (offset, len) = op.range();
            opcode::Fallocate::new(file, len).offset(offset).mode(op.fallocate_mode()).build()
        }
    };
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn waiting_ends_only_when_the_kernel_has_nothing_left() {
        let file = tempfile::tempfile().unwrap();
        let mut uring = Uring::new(8).unwrap();
        uring.update_file(0, file.as_raw_fd()).unwrap();
        for token in 0..8 {
            // SAFETY: a transfer without data (sync) refers to no memory.
            unsafe { uring.push(token, &Transfer::idle()) }.unwrap();
        }
        assert!(uring.wait().unwrap().is_none(), "nothing was flushed");
        uring.flush().unwrap();
        let mut tokens: Vec<_> = (0..8).map(|_| uring.wait().unwrap().unwrap().0).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(uring.wait().unwrap().is_none());
    }
}
