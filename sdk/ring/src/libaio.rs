//! The libaio engine: the kernel's native AIO by raw system calls.
//!
//! `libaio.so` itself is not needed. Events are read from the kernel's ring in user memory, as
//! that library and fio do, and by `io_getevents` where the ring is not the layout we know.
#![expect(unsafe_code, reason = "the kernel reads and writes the memory named in control blocks")]

use std::collections::VecDeque;
use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_long, c_ulong, iocb, timespec};

use crate::Errno;
use crate::engine::Event;
use crate::event::EventFd;
use crate::op::Op;
use crate::transfer::Transfer;

// linux/aio_abi.h
const IOCB_CMD_FSYNC: u16 = 2;
const IOCB_CMD_FDSYNC: u16 = 3;
const IOCB_CMD_PREADV: u16 = 7;
const IOCB_CMD_PWRITEV: u16 = 8;
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct io_event` of linux/aio_abi.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}
const _: () = assert!(size_of::<IoEvent>() == 32);

/// Header of the event ring that `io_setup` maps: `struct aio_ring` of the kernel's fs/aio.c.
/// The context's id is its address. `nr` events of [`IoEvent`] follow it.
#[repr(C)]
struct RingHeader {
    id: u32,
    nr: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compat_features: u32,
    incompat_features: u32,
    header_length: u32,
}
const _: () = assert!(size_of::<RingHeader>() == 32);
const _: () = assert!(offset_of!(RingHeader, magic) == 16);

/// `AIO_RING_MAGIC`: the ring has the layout above.
const RING_MAGIC: u32 = 0xa10a_10a1;

/// An AIO context and the control blocks of its operations.
#[derive(Debug)]
pub(crate) struct Libaio {
    context: Context,
    /// By token. The kernel copies a block when it takes it.
    blocks: Box<[iocb]>,
    /// Tokens pushed and not yet taken by the kernel.
    unflushed: Vec<u32>,
    /// Scratch of `flush`: the addresses of the blocks.
    addresses: Vec<*mut iocb>,
    /// What is done without the kernel's queue: refused, or carried out on the spot.
    finished: VecDeque<Event>,
    pub(crate) events: EventFd,
    /// Operations the kernel has taken and not completed.
    in_kernel: usize,
}

// SAFETY: `addresses` is empty outside of `flush`; the rest may change threads.
unsafe impl Send for Libaio {}

impl Libaio {
    pub(crate) fn probe() -> io::Result<()> {
        Context::new(1).map(drop)
    }

    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        let slots = depth as usize;
        Ok(Self {
            context: Context::new(depth)?,
            blocks: (0..slots).map(|_| blank()).collect(),
            unflushed: Vec::with_capacity(slots),
            addresses: Vec::with_capacity(slots),
            finished: VecDeque::with_capacity(slots),
            events: EventFd::new()?,
            in_kernel: 0,
        })
    }

    /// # Safety
    ///
    /// As [`Queue::push`](crate::engine::Queue::push), `fd` being the file.
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
                self.finished.push_back((token, fallocate(fd, op)));
                return Ok(());
            }
        };
        let block = self.blocks.get_mut(token as usize).ok_or(Errno::INVALID)?;
        *block = blank();
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
        self.unflushed.push(token);
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.unflushed.is_empty() {
            let base = self.blocks.as_mut_ptr();
            // Tokens were checked against `blocks` when they were pushed.
            let address = |&token: &u32| base.wrapping_add(token as usize);
            self.addresses.extend(self.unflushed.iter().map(address));
            // SAFETY: every address is a block of ours, filled in by `push`, whose caller keeps
            // the memory it names valid until the event.
            let submitted = unsafe { self.context.submit(&mut self.addresses) };
            self.addresses.clear();
            match submitted {
                Ok(taken) => {
                    self.in_kernel += taken;
                    self.unflushed.drain(..taken);
                    if taken == 0 {
                        break;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => break,
                    // The kernel speaks of the first block, and has taken none.
                    Some(number) => self.refuse_first(number),
                    None => return Err(error),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn has_unflushed(&self) -> bool {
        !self.unflushed.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.finished.pop_front() {
            return Some(event);
        }
        let event = match self.context.pop() {
            Some(known_layout) => known_layout?,
            None if self.in_kernel > 0 => self.context.getevents(false).ok().flatten()?,
            None => return None,
        };
        Some(self.took(event))
    }

    pub(crate) fn has_events(&mut self) -> bool {
        if self.finished.is_empty() {
            let found = self.next();
            self.finished.extend(found);
        }
        !self.finished.is_empty()
    }

    pub(crate) fn wait(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.next() {
                return Ok(Some(event));
            }
            if self.in_kernel == 0 {
                return Ok(None);
            }
            match self.context.getevents(true) {
                Ok(Some(event)) => return Ok(Some(self.took(event))),
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Completes the first unflushed operation with an error of `io_submit`.
    fn refuse_first(&mut self, number: i32) {
        let token = self.unflushed.remove(0);
        let opcode = self.blocks.get(token as usize).map(|block| block.aio_lio_opcode);
        let is_sync = matches!(opcode, Some(IOCB_CMD_FSYNC | IOCB_CMD_FDSYNC));
        let unknown_sync = is_sync && number == libc::EINVAL;
        let number = if unknown_sync { Errno::NOT_SUPPORTED.number() } else { number };
        self.finished.push_back((token, -number));
    }

    /// Accounts for an event taken from the kernel.
    fn took(&mut self, event: IoEvent) -> Event {
        self.in_kernel = self.in_kernel.saturating_sub(1);
        // `data` is the token that `push` put there; `res` is at most one call's bytes (2 GiB).
        let token = u32::try_from(event.data).unwrap_or(u32::MAX);
        (token, i32::try_from(event.res).unwrap_or(-libc::EIO))
    }
}

/// What `io_setup` made; destroyed when dropped.
#[derive(Debug)]
struct Context {
    ring: NonNull<RingHeader>,
}

impl Context {
    fn new(depth: u32) -> io::Result<Self> {
        let mut id: c_ulong = 0;
        // SAFETY: `id` is zero, as it must be, and written by the call.
        let result = unsafe {
            libc::syscall(libc::SYS_io_setup, c_ulong::from(depth), ptr::from_mut(&mut id))
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let address = usize::try_from(id).map_err(io::Error::other)?;
        let ring = NonNull::new(ptr::with_exposed_provenance_mut(address));
        Ok(Self { ring: ring.ok_or(Errno::INVALID)? })
    }

    fn id(&self) -> c_ulong {
        self.ring.as_ptr().expose_provenance() as c_ulong
    }

    /// Takes the next event from the ring in user memory: `Some(None)` when there is none, and
    /// `None` when the ring has a layout we do not know.
    fn pop(&mut self) -> Option<Option<IoEvent>> {
        // SAFETY: the kernel keeps the ring mapped here until `io_destroy`; the fields that it
        // changes are atomics. `&mut self`: no other reader moves `head`.
        let header = unsafe { self.ring.as_ref() };
        let known = header.magic == RING_MAGIC
            && header.incompat_features == 0
            && header.header_length as usize == size_of::<RingHeader>();
        if !known {
            return None;
        }
        let head = header.head.load(Ordering::Relaxed);
        // Acquire: the event must be read after the tail that announces it.
        if head == header.tail.load(Ordering::Acquire) || head >= header.nr {
            return Some(None);
        }
        let slots = self.ring.as_ptr().wrapping_add(1).cast::<IoEvent>();
        // SAFETY: `head` is below `nr`, the number of events mapped behind the header, and the
        // kernel does not write this one again before `head` has moved on.
        let event = unsafe { slots.wrapping_add(head as usize).read() };
        let next = if head + 1 == header.nr { 0 } else { head + 1 };
        // Release: the event has been read before the kernel may write it again.
        header.head.store(next, Ordering::Release);
        Some(Some(event))
    }

    /// One event by system call; waits for it if `wait`.
    fn getevents(&mut self, wait: bool) -> io::Result<Option<IoEvent>> {
        let mut event = IoEvent::default();
        let mut at_once = timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if wait { ptr::null_mut() } else { ptr::from_mut(&mut at_once) };
        // SAFETY: room for one event, asked for at most one; the timeout is null or valid.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.id(),
                c_long::from(wait),
                c_long::from(1),
                ptr::from_mut(&mut event),
                timeout,
            )
        };
        match result {
            0 => Ok(None),
            1.. => Ok(Some(event)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands blocks to the kernel; returns how many it has taken, from the front.
    ///
    /// # Safety
    ///
    /// The blocks must be valid, and what they name must stay so until their events.
    unsafe fn submit(&mut self, blocks: &mut [*mut iocb]) -> io::Result<usize> {
        // SAFETY: the caller's promise; the list itself is only read during the call.
        let result = unsafe {
            libc::syscall(libc::SYS_io_submit, self.id(), blocks.len(), blocks.as_mut_ptr())
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the id is live until here and `ring` is not used after. The kernel waits for
        // what is still in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id()) };
    }
}

/// A control block with nothing in it.
fn blank() -> iocb {
    // SAFETY: integers only, for which zero is a value.
    unsafe { zeroed() }
}

/// Carries out an operation on a range at once; the result is as the kernel's queue gives it.
fn fallocate(fd: RawFd, op: Op) -> i32 {
    let (offset, len) = op.range();
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return -libc::EINVAL;
    };
    // SAFETY: takes integers; a bad descriptor is an error.
    let result = unsafe { libc::fallocate(fd, op.fallocate_mode(), offset, len) };
    if result == 0 { 0 } else { -Errno::last().number() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn synced(file: &std::fs::File, token: u32) -> Libaio {
        let mut aio = Libaio::new(4).unwrap();
        // SAFETY: a transfer without data names no memory; `file` outlives the caller's waiting.
        unsafe { aio.push(token, file.as_raw_fd(), &Transfer::idle()) }.unwrap();
        aio.flush().unwrap();
        aio
    }

    #[test]
    fn this_kernel_has_the_ring_layout_that_is_read_without_a_call() {
        assert!(Context::new(1).unwrap().pop().is_some());
    }

    #[test]
    fn events_come_by_system_call_too() {
        let file = tempfile::tempfile().unwrap();
        let mut aio = synced(&file, 3);
        let event = aio.context.getevents(true).unwrap().unwrap();
        assert_eq!(aio.took(event), (3, 0));
        assert!(aio.context.getevents(false).unwrap().is_none());
        assert!(aio.wait().unwrap().is_none());
    }

    #[test]
    fn a_look_at_the_ring_takes_nothing_from_it() {
        let file = tempfile::tempfile().unwrap();
        let mut aio = synced(&file, 1);
        while !aio.has_events() {}
        assert!(aio.has_events());
        assert_eq!(aio.next(), Some((1, 0)));
        assert!(!aio.has_events());
    }
}
