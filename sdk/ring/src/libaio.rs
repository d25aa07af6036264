//! The libaio engine: the kernel's native AIO through raw system calls.
//!
//! It does not need `libaio.so`. It reads events from the kernel's ring in user memory, as that library
//! and fio do, or with `io_getevents` if the ring has an unknown layout. A thread of the ring makes the
//! calls that can wait for the disk:
//!
//! ```text
//! push ─► unflushed ─► flush ─► submitter (thread) ─► io_submit ─► kernel ─► events ─► next
//!                                     └─ fallocate, refused ─► results ───────────────► next
//! ```
#![expect(unsafe_code, reason = "the kernel accesses the memory that control blocks point to")]

mod context;
mod submitter;

use std::io;
use std::mem::zeroed;
use std::os::fd::RawFd;
use std::sync::Arc;

use libc::iocb;

use crate::Errno;
use crate::engine::Event;
use crate::event::EventFd;
use crate::op::Op;
use crate::transfer::Transfer;
use context::{Context, Events, IoEvent};
use submitter::{Job, Submitter};

// linux/aio_abi.h
const IOCB_CMD_FSYNC: u16 = 2;
const IOCB_CMD_FDSYNC: u16 = 3;
const IOCB_CMD_PREADV: u16 = 7;
const IOCB_CMD_PWRITEV: u16 = 8;
const IOCB_FLAG_RESFD: u32 = 1;

/// An AIO context, and the thread that submits to it.
#[derive(Debug)]
pub(crate) struct Libaio {
    submitter: Submitter,
    from_kernel: Events,
    /// Operations that were pushed but not yet passed to the submitter.
    unflushed: Vec<Job>,
    /// An event that `has_events` found, for `next` to return.
    seen: Option<Event>,
    pub(crate) events: Arc<EventFd>,
    /// Number of operations that the submitter or the kernel has.
    in_flight: usize,
}

impl Libaio {
    pub(crate) fn probe() -> io::Result<()> {
        Context::new(1).map(drop)
    }

    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        let (context, from_kernel) = Context::new(depth)?;
        let events = Arc::new(EventFd::new()?);
        Ok(Self {
            submitter: Submitter::start(context, Arc::clone(&events), depth)?,
            from_kernel,
            unflushed: Vec::with_capacity(depth as usize),
            seen: None,
            events,
            in_flight: 0,
        })
    }

    /// # Safety
    ///
    /// As [`Queue::push`](crate::engine::Queue::push), with `fd` as the file.
    pub(crate) unsafe fn push(
        &mut self,
        token: u32,
        fd: RawFd,
        transfer: &Transfer,
    ) -> Result<(), Errno> {
        let op = transfer.op();
        let opcode = match op {
            Op::Read { .. } => IOCB_CMD_PREADV,
            Op::Write { .. } => IOCB_CMD_PWRITEV,
            Op::Fdatasync => IOCB_CMD_FDSYNC,
            Op::Fsync => IOCB_CMD_FSYNC,
            Op::PunchHole { .. } | Op::ZeroRange { .. } => {
                self.unflushed.push(Job::Fallocate { token, fd, op });
                return Ok(());
            }
        };
        // SAFETY: all fields are integers, for which zero is valid.
        let mut block: iocb = unsafe { zeroed() };
        block.aio_data = u64::from(token);
        block.aio_lio_opcode = opcode;
        block.aio_fildes = u32::try_from(fd).map_err(|_| Errno::BAD_FILE)?;
        block.aio_flags = IOCB_FLAG_RESFD;
        block.aio_resfd = u32::try_from(self.events.raw()).map_err(|_| Errno::BAD_FILE)?;
        if op.moves_data() {
            let segments = transfer.rest();
            block.aio_buf = segments.as_ptr().expose_provenance() as u64;
            block.aio_nbytes = segments.len() as u64;
            block.aio_offset = i64::try_from(transfer.offset()).map_err(|_| Errno::INVALID)?;
        }
        if matches!(op, Op::Write { durable: true, .. }) {
            block.aio_rw_flags = libc::RWF_DSYNC;
        }
        self.unflushed.push(Job::Queue(block));
        Ok(())
    }

    /// Passes the pushed operations to the submitter.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for job in self.unflushed.drain(..) {
            // SAFETY: the caller of `push` keeps the job's memory and file valid until the event.
            unsafe { self.submitter.send(job) }?;
            self.in_flight += 1;
        }
        Ok(())
    }

    pub(crate) fn has_unflushed(&self) -> bool {
        !self.unflushed.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.seen.take() {
            return Some(event);
        }
        if self.in_flight == 0 {
            return None;
        }
        let event = match self.submitter.results.try_recv() {
            Ok(result) => result,
            Err(_) => event_of(match self.from_kernel.pop() {
                Some(known_layout) => known_layout?,
                None => self.from_kernel.getevents().ok().flatten()?,
            }),
        };
        self.in_flight -= 1;
        Some(event)
    }

    pub(crate) fn has_events(&mut self) -> bool {
        self.seen = self.next();
        self.seen.is_some()
    }

    pub(crate) fn wait(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.next() {
                return Ok(Some(event));
            }
            if self.in_flight == 0 {
                return Ok(None);
            }
            // Both the kernel and the submitter signal each event.
            self.events.wait()?;
        }
    }
}

/// Token and result of a kernel event.
fn event_of(event: IoEvent) -> Event {
    // `data` is the token from `push`; `res` is at most the bytes of one call (2 GiB).
    let token = u32::try_from(event.data).unwrap_or(u32::MAX);
    (token, i32::try_from(event.res).unwrap_or(-libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IoBuffers, Segment};
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_look_at_the_events_takes_nothing_from_them() {
        let file = tempfile::tempfile().unwrap();
        let mut aio = Libaio::new(4).unwrap();
        // SAFETY: a transfer without data refers to no memory; `file` outlives the operation.
        unsafe { aio.push(1, file.as_raw_fd(), &Transfer::idle()) }.unwrap();
        aio.flush().unwrap();
        while !aio.has_events() {}
        assert!(aio.has_events());
        assert_eq!(aio.next(), Some((1, 0)));
        assert!(!aio.has_events());
        assert!(aio.wait().unwrap().is_none());
    }

    struct Bytes([u8; 4]);

    // SAFETY: the test's memory outlives its operation.
    unsafe impl IoBuffers for Bytes {
        fn segments(&self) -> impl Iterator<Item = Segment> {
            std::iter::once(Segment { ptr: self.0.as_ptr().cast_mut(), len: 4 })
        }
        fn writable(&self) -> bool {
            true
        }
    }

    #[test]
    fn the_owner_goes_on_while_a_submission_hangs() {
        // A read from an empty pipe makes `io_submit` wait, as a frozen file system does.
        let (reader, mut writer) = io::pipe().unwrap();
        let mut rescue_writer = writer.try_clone().unwrap();
        let (flushed, is_flushed) = channel();
        let rescue = std::thread::spawn(move || {
            let hangs = is_flushed.recv_timeout(Duration::from_secs(60)).is_err();
            if hangs {
                rescue_writer.write_all(b"hung").unwrap();
            }
        });
        let mut aio = Libaio::new(4).unwrap();
        let (bytes, mut transfer) = (Box::new(Bytes([0; 4])), Transfer::idle());
        transfer.start(Op::Read { offset: 0 }, 0, 1, &*bytes).unwrap();
        // SAFETY: `bytes`, `transfer` and `reader` outlive the operation.
        unsafe { aio.push(2, reader.as_raw_fd(), &transfer) }.unwrap();
        aio.flush().unwrap();
        flushed.send(()).unwrap();
        assert_eq!(aio.next(), None, "nothing has been written yet");
        writer.write_all(b"data").unwrap();
        assert_eq!(aio.wait().unwrap(), Some((2, 4)));
        rescue.join().unwrap();
    }
}
