//! A base bdev that an array has opened and claimed.

use crate::{grow, members};
use drivebay_sdk::App;
use drivebay_sdk::bdev::{Claim, Desc, Event, Info, open};
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Serial number of the next member of any array. It keeps a late report about an old member away from its successor.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// An open base bdev. The array keeps its claim and its descriptor until this value, the channels' copies of it and all of its I/O are
/// gone.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) serial: u64,
    pub(crate) info: Info,
    pub(crate) desc: Arc<Desc>,
    /// The app thread's channel, for superblocks and rebuilds. I/O of a member goes through [`read`](Self::read),
    /// [`write`](Self::write) and [`flush`](Self::flush).
    pub(crate) io: BlockIo,
    /// I/O that the app thread waits for, and I/O that has ended.
    waited_for: Cell<(u32, u64)>,
    /// Whether the array is removing the member.
    is_leaving: Cell<bool>,
    leaves: Notify,
    /// Whether the bdev is leaving the bus.
    is_gone: Rc<Cell<bool>>,
}

impl Member {
    /// Opens and claims a bdev. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV`; `EPERM` when another user has claimed the bdev; `EOPNOTSUPP` when it is zoned.
    pub(crate) fn open(app: &App, name: &str) -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let is_gone = Rc::new(Cell::new(false));
        let gone = Rc::clone(&is_gone);
        let desc = open(app, name, true, move |app, event| match event {
            Event::Remove => {
                gone.set(true);
                members::base_is_gone(app, serial);
            }
            Event::Resize { .. } => grow::base_was_resized(app, serial),
            _ => {}
        })?;
        desc.info()?.require_no_zones()?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        let desc = Arc::new(desc);
        let (info, io) = (desc.info()?, BlockIo::new(&desc)?);
        let (is_leaving, leaves) = (Cell::new(false), Notify::new());
        let waited_for = Cell::default();
        Ok(Self { serial, info, desc, io, waited_for, is_leaving, leaves, is_gone })
    }

    /// Whether the bdev is leaving the bus. Until the member has a slot, no array learns that. So a task that waits after
    /// [`open`](Self::open) must ask before it gives the member a slot.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// With `true`, the app thread stops waiting for the member's I/O, because the array removes the member, which may hang.
    /// With `false`, the member stays.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.set(is_leaving);
        self.leaves.notify();
    }

    /// While the app thread waits for I/O of the member: a number that changes whenever I/O ends.
    pub(crate) fn waits_since(&self) -> Option<u64> {
        let (waiting, ended) = self.waited_for.get();
        (waiting > 0).then_some(ended)
    }

    /// Reads blocks into a buffer of their length. `[app thread]`
    ///
    /// # Errors
    /// Why the I/O failed; `ENODEV` when the array removes the member first. The I/O keeps its buffer until it ends.
    pub(crate) async fn read_into(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.unless_it_leaves(self.io.read_into(range, buf)).await
    }

    /// As [`read_into`](Self::read_into), into a new buffer.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into), and `ENOMEM`.
    pub(crate) async fn read(&self, range: Range) -> Result<Buf> {
        self.unless_it_leaves(self.io.read(range)).await
    }

    /// Writes blocks from a buffer and returns it. `[app thread]`
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub(crate) async fn write(&self, range: Range, buf: Buf) -> Result<Buf> {
        self.unless_it_leaves(self.io.write(range, buf)).await
    }

    /// Makes earlier writes durable. `[app thread]`
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub(crate) async fn flush(&self) -> Result<()> {
        self.unless_it_leaves(self.io.flush()).await
    }

    async fn unless_it_leaves<T>(&self, io: impl Future<Output = Result<T>>) -> Result<T> {
        let _waiting = Waiting::new(&self.waited_for);
        match task::select(io, self.leaves.until(|| self.is_leaving.get())).await {
            Either::Left(result) => result,
            Either::Right(()) => {
                let message = format!("its array is removing bdev {}", self.name());
                Err(Error::new(errno::ENODEV, message))
            }
        }
    }

    /// The bdev's name.
    pub(crate) fn name(&self) -> &str {
        self.info.name()
    }

    /// The bdev's size now, in blocks. `info` has the size at the time of [`open`](Self::open).
    ///
    /// # Errors
    /// `ENODEV` when the bdev has left the bus.
    pub(crate) fn num_blocks(&self) -> Result<u64> {
        Ok(self.desc.info()?.num_blocks())
    }

    /// Bytes of data in a block, without interleaved metadata.
    pub(crate) fn data_block_size(&self) -> u32 {
        data_block_size(&self.info)
    }
}

/// Counts an I/O that the app thread waits for, until it is dropped.
struct Waiting<'a>(&'a Cell<(u32, u64)>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<(u32, u64)>) -> Self {
        let (waiting, ended) = count.get();
        count.set((waiting + 1, ended));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (waiting, ended) = self.0.get();
        self.0.set((waiting - 1, ended + 1));
    }
}

/// As [`Member::data_block_size`], for any bdev.
pub(crate) fn data_block_size(info: &Info) -> u32 {
    let raw = info.raw();
    let metadata = if raw.md_interleave != 0 { raw.md_size } else { 0 };
    info.block_size().saturating_sub(metadata)
}
