//! Metadata I/O: reads and writes of an open bdev as futures.
//!
//! For superblocks, tables and labels; each I/O allocates. A future that is dropped leaves its I/O in flight: the I/O keeps its buffer,
//! the channel and the descriptor until the host is done with it, and the plugin's stop waits for it.
#![expect(unsafe_code, reason = "lends buffers to the host for the time of an I/O")]

use super::executor::{Executor, Hold};
use crate::bdev::{Channel, Desc, IoContext, IoFlags, IoResult, Op, Range};
use crate::buf::{self, Buf};
use crate::error::{Error, Result, Status, errno};
use crate::thread;
use drivebay_plugin_api::bay_iov;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// An open bdev on one lightweight thread. Clones share its channel; the channel goes with the last clone and the last I/O, before the
/// descriptor.
#[derive(Clone, Debug)]
pub struct BlockIo(Rc<Open>);

#[derive(Debug)]
struct Open {
    // Dropped in this order: a channel goes before its descriptor.
    channel: Channel,
    desc: Arc<Desc>,
    name: Rc<str>,
    block_size: u32,
    executor: Rc<Executor>,
}

impl BlockIo {
    /// Gets the current thread's channel of an open bdev. `[any lightweight thread]`
    ///
    /// # Errors
    /// What the bdev's module answers.
    pub fn new(desc: &Arc<Desc>) -> Result<Self> {
        let info = desc.info()?;
        Ok(Self(Rc::new(Open {
            channel: desc.channel()?,
            desc: Arc::clone(desc),
            name: info.name().into(),
            block_size: info.block_size(),
            executor: Executor::here()?,
        })))
    }

    /// The descriptor.
    #[must_use]
    pub fn desc(&self) -> &Arc<Desc> {
        &self.0.desc
    }

    /// Block size, in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.0.block_size
    }

    /// Reads blocks into a buffer of their length.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` for more than 4 GiB, and how the I/O ended, naming bdev and blocks.
    pub async fn read(&self, range: Range) -> Result<Buf> {
        self.read_into(range, buf::alloc(self.len_of(range)?)?).await
    }

    /// As [`read`](Self::read), into a buffer of the caller's, which must be as long as the blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_into(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.with_data(Op::Read(range), range, buf).await
    }

    /// Writes blocks from a buffer as long as they are, and gives it back.
    ///
    /// # Errors
    /// `EINVAL` for another length, and how the I/O ended, naming bdev and blocks.
    pub async fn write(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.with_data(Op::Write(range), range, buf).await
    }

    /// Has blocks read as zeroes.
    ///
    /// # Errors
    /// How the I/O ended.
    pub async fn write_zeroes(&self, range: Range) -> Result<()> {
        self.run(Op::WriteZeroes(range), None).await.map(drop)
    }

    /// Says that the contents of blocks are no longer needed.
    ///
    /// # Errors
    /// How the I/O ended.
    pub async fn unmap(&self, range: Range) -> Result<()> {
        self.run(Op::Unmap(range), None).await.map(drop)
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// How the I/O ended.
    pub async fn flush(&self) -> Result<()> {
        self.run(Op::Flush, None).await.map(drop)
    }

    /// A buffer for as many blocks; what is in it is undefined.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` for more than 4 GiB.
    pub fn buffer(&self, nblocks: u64) -> Result<Buf> {
        buf::alloc(self.len_of(Range::new(0, nblocks))?)
    }

    fn len_of(&self, range: Range) -> Result<u32> {
        let len = range.nblocks.checked_mul(self.block_size().into());
        len.and_then(|len| u32::try_from(len).ok()).filter(|len| *len > 0).ok_or_else(|| {
            Error::invalid(
                "nblocks",
                range.nblocks,
                format!("1 to {}", u32::MAX / self.block_size()),
            )
        })
    }

    async fn with_data(&self, op: Op, range: Range, buf: Buf) -> Result<Buf> {
        let len = self.len_of(range)?;
        if buf.len() != len {
            return Err(Error::invalid("the buffer's length", buf.len(), len));
        }
        let buf = self.run(op, Some(buf)).await?;
        buf.ok_or_else(|| Error::new(errno::EIO, "an I/O lost its buffer"))
    }

    async fn run(&self, op: Op, buf: Option<Buf>) -> Result<Option<Buf>> {
        let what = What { op, bdev: Rc::clone(&self.0.name) };
        let slot = Rc::new(Slot::default());
        let in_flight = InFlight {
            buf,
            slot: Rc::clone(&slot),
            open: Rc::clone(&self.0),
            hold: Hold::new(&self.0.executor, what.clone()),
        };
        self.0.channel.submit(op, IoFlags::NONE, Context(Box::new(in_flight)), ended);
        let (result, buf) = poll_fn(|context| match slot.end.take() {
            Some(end) => Poll::Ready(end),
            None => {
                slot.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        check(result.status, &what)?;
        Ok(buf)
    }
}

/// An I/O in flight, and all that must outlive it.
struct InFlight {
    buf: Option<Buf>,
    slot: Rc<Slot>,
    open: Rc<Open>,
    hold: Hold,
}

/// Where an I/O meets its future.
#[derive(Default)]
struct Slot {
    end: Cell<Option<(IoResult, Option<Buf>)>>,
    waker: RefCell<Option<Waker>>,
}

struct Context(Box<InFlight>);

// SAFETY: the box is not touched before `from_raw`, so neither it nor its buffer moves; the buffer is its own.
unsafe impl IoContext for Context {
    fn into_raw(self) -> *mut c_void {
        Box::into_raw(self.0).cast()
    }
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Box::from_raw(raw.cast()) })
    }
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: the box is ours until `from_raw`.
        let in_flight = unsafe { &*raw.cast::<InFlight>() };
        in_flight.buf.as_ref().map_or((std::ptr::null(), 0), |buf| (buf.iov(), 1))
    }
}

fn ended(context: Context, result: IoResult) {
    let InFlight { buf, slot, open, hold } = *context.0;
    slot.end.set(Some((result, buf)));
    let waker = slot.waker.take();
    if let Some(waker) = waker {
        waker.wake();
    }
    // The channel may not go before its completion has returned.
    if Rc::strong_count(&open) == 1
        && let Some(here) = thread::current()
    {
        // SAFETY: both stay on this thread, and are not touched here any more.
        let _ = unsafe { here.send_any(move || drop((open, hold))) };
    }
}

/// An I/O, for lists and errors.
#[derive(Clone)]
struct What {
    op: Op,
    bdev: Rc<str>,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, bdev } = self;
        let (verb, range) = match op {
            Op::Read(range) => ("read", range),
            Op::Write(range) => ("write", range),
            Op::WriteZeroes(range) => ("write zeroes", range),
            Op::Unmap(range) => ("unmap", range),
            _ => return write!(f, "bdev {bdev}: flush"),
        };
        write!(f, "bdev {bdev}: {verb} {} blocks at {}", range.nblocks, range.lba)
    }
}

fn check(status: Status, what: &What) -> Result<()> {
    match status {
        Status::SUCCESS => Ok(()),
        Status::ABORTED => Err(Error::new(errno::ECANCELED, format!("{what}: aborted"))),
        Status::MEDIA => Err(Error::new(errno::EIO, format!("{what}: the medium lost the data"))),
        other if (-4095..0).contains(&other.raw()) => {
            let why = std::io::Error::from_raw_os_error(-other.raw());
            Err(Error::new(other.raw(), format!("{what}: {why}")))
        }
        other => Err(Error::new(errno::EIO, format!("{what}: status {}", other.raw()))),
    }
}

#[cfg(test)]
mod tests;
