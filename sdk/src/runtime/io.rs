//! Metadata I/O: reads and writes of an open bdev as futures.
//!
//! For superblocks, tables and labels; each I/O allocates memory. Dropping a future leaves its I/O in flight. The I/O keeps its
//! buffer, the channel and the descriptor until it completes, and the plugin's stop waits for it.
#![expect(unsafe_code, reason = "lends buffers to the host for the duration of an I/O")]

use super::executor::{Executor, Hold};
use crate::bdev::{Channel, Desc, IoContext, IoFlags, IoResult, Op, Range, Zone, ZoneAction};
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

/// An open bdev on one lightweight thread. Clones share its channel. The last clone or the last I/O drops the channel, then the
/// descriptor.
#[derive(Clone, Debug)]
pub struct BlockIo(Rc<Open>);

#[derive(Debug)]
struct Open {
    // Fields are dropped in this order: a channel before its descriptor.
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
    /// The errors of the bdev's module.
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

    /// Reads blocks into a new buffer of their length.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` for more than 4 GiB, or the I/O's status; the text names the bdev and the blocks.
    pub async fn read(&self, range: Range) -> Result<Buf> {
        self.read_into(range, buf::alloc(self.len_of(range)?)?).await
    }

    /// As [`read`](Self::read), into the caller's buffer, which must have the length of the blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_into(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.with_data(Op::Read(range), range, buf).await
    }

    /// Writes blocks from a buffer of their length, and returns the buffer.
    ///
    /// # Errors
    /// `EINVAL` for another length, or the I/O's status; the text names the bdev and the blocks.
    pub async fn write(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.with_data(Op::Write(range), range, buf).await
    }

    /// Makes later reads of the blocks return zeroes.
    ///
    /// # Errors
    /// The I/O's status.
    pub async fn write_zeroes(&self, range: Range) -> Result<()> {
        self.run(Op::WriteZeroes(range), None).await.map(drop)
    }

    /// Unmaps blocks: their contents are no longer needed.
    ///
    /// # Errors
    /// The I/O's status.
    pub async fn unmap(&self, range: Range) -> Result<()> {
        self.run(Op::Unmap(range), None).await.map(drop)
    }

    /// Makes earlier writes durable.
    ///
    /// # Errors
    /// The I/O's status.
    pub async fn flush(&self) -> Result<()> {
        self.run(Op::Flush, None).await.map(drop)
    }

    /// Reports zones, at most `most`, starting with the zone that begins at block `first`. The end of the bdev or the length
    /// of a buffer can make them fewer; ask again for the rest.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` for 0 zones, `EIO` for a report that makes no sense, or the I/O's status.
    pub async fn report_zones(&self, first: u64, most: u32) -> Result<Vec<Zone>> {
        const LEN_MAX: u32 = 1 << 20;
        let record = u32::try_from(Zone::RECORD_LEN).unwrap_or(u32::MAX);
        let most = most.min(LEN_MAX / record);
        let op = Op::ZoneReport { first, most: most.into() };
        let (result, buf) = self.run(op, Some(buf::alloc(most.max(1) * record)?)).await?;
        let count = usize::try_from(result.block().unwrap_or(0)).unwrap_or(usize::MAX);
        let zones = buf.and_then(|buf| Zone::from_records(&buf).take(count).collect());
        zones.ok_or_else(|| {
            Error::new(errno::EIO, "the report has an unknown state or type of zone")
        })
    }

    /// Applies an action to the zone that begins at the block, or to all zones whose state allows it (`None`).
    ///
    /// # Errors
    /// The I/O's status.
    pub async fn manage_zone(&self, zone: Option<u64>, action: ZoneAction) -> Result<()> {
        self.run(Op::ZoneManage { zone, action }, None).await.map(drop)
    }

    /// Appends whole blocks to the zone that begins at block `zone`. Returns the first block written, and the buffer.
    ///
    /// # Errors
    /// `EINVAL` for a length that is not whole blocks or longer than
    /// [`Zoning::max_append`](crate::bdev::Zoning::max_append), or the I/O's status.
    pub async fn append(&self, zone: u64, buf: Buf) -> Result<(u64, Buf)> {
        let op = Op::ZoneAppend(Range::new(zone, u64::from(buf.len() / self.block_size())));
        let (result, buf) = self.run(op, Some(buf)).await?;
        match (result.block(), buf) {
            (Some(first), Some(buf)) => Ok((first, buf)),
            _ => Err(Error::new(errno::EIO, "the append did not return the block that it wrote")),
        }
    }

    /// Returns a buffer for `nblocks` blocks, with undefined contents.
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
        let (_, buf) = self.run(op, Some(buf)).await?;
        buf.ok_or_else(|| Error::new(errno::EIO, "the completed I/O has no buffer"))
    }

    async fn run(&self, op: Op, buf: Option<Buf>) -> Result<(IoResult, Option<Buf>)> {
        let what = What { op, bdev: Rc::clone(&self.0.name) };
        let slot = Rc::new(Slot::default());
        let in_flight = InFlight {
            buf,
            slot: Rc::clone(&slot),
            open: Rc::clone(&self.0),
            hold: Hold::new(&self.0.executor, what.clone()),
        };
        self.0.channel.submit(op, IoFlags::NONE, Context(Box::new(in_flight)), io_done);
        let (result, buf) = poll_fn(|context| match slot.end.take() {
            Some(end) => Poll::Ready(end),
            None => {
                slot.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        check(result.status, &what)?;
        Ok((result, buf))
    }
}

/// An I/O in flight, and everything that must live until it completes.
struct InFlight {
    buf: Option<Buf>,
    slot: Rc<Slot>,
    open: Rc<Open>,
    hold: Hold,
}

/// Carries the result from an I/O to its future.
#[derive(Default)]
struct Slot {
    end: Cell<Option<(IoResult, Option<Buf>)>>,
    waker: RefCell<Option<Waker>>,
}

struct Context(Box<InFlight>);

// SAFETY: no code touches the box before `from_raw`, so neither it nor its buffer moves; the box owns the buffer.
unsafe impl IoContext for Context {
    fn into_raw(self) -> *mut c_void {
        Box::into_raw(self.0).cast()
    }
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Box::from_raw(raw.cast()) })
    }
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: this code owns the box until `from_raw`.
        let in_flight = unsafe { &*raw.cast::<InFlight>() };
        in_flight.buf.as_ref().map_or((std::ptr::null(), 0), |buf| (buf.iov(), 1))
    }
}

fn io_done(context: Context, result: IoResult) {
    let InFlight { buf, slot, open, hold } = *context.0;
    slot.end.set(Some((result, buf)));
    let waker = slot.waker.take();
    if let Some(waker) = waker {
        waker.wake();
    }
    // The channel must not be dropped before its completion callback has returned.
    if Rc::strong_count(&open) == 1
        && let Some(here) = thread::current()
    {
        // SAFETY: both values stay on this thread, and this function does not use them again.
        let _ = unsafe { here.send_any(move || drop((open, hold))) };
    }
}

/// Describes an I/O, for lists and errors.
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
            Op::ZoneAppend(range) => ("append", range),
            Op::ZoneReport { first, most } => ("report of zones", &Range::new(*first, *most)),
            Op::ZoneManage { zone, action } => {
                let zone = zone.map_or("all zones".into(), |lba| format!("the zone at {lba}"));
                return write!(f, "bdev {bdev}: {action:?} of {zone}");
            }
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
