//! A volume that an operation reads as a client of the bus does.
//!
//! While such a read is in flight, the store does not use its clusters again, even if the volume's ancestors change or are
//! deleted.

use crate::stores::LvStore;
use drivebay_blobstore::{Info, Place};
use drivebay_sdk::bdev::{Event, open};
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// An open bdev, and whether it is leaving the bus. `[app thread]`
#[derive(Debug)]
pub(crate) struct OpenBdev {
    pub(crate) io: BlockIo,
    is_leaving: Rc<Cell<bool>>,
}

impl OpenBdev {
    /// Opens a bdev for reading. With `claim`, claims it and opens it for writing, too.
    ///
    /// # Errors
    /// `ENODEV`, or `EPERM` when the bdev is in use.
    pub(crate) fn new(name: &str, claim: Option<drivebay_sdk::bdev::Claim>) -> Result<Self> {
        let is_leaving = Rc::new(Cell::new(false));
        let leaves = Rc::clone(&is_leaving);
        let desc = App::here(|app| {
            let on_event = move |_: &App, event| leaves.set(leaves.get() || event == Event::Remove);
            let desc = open(app, name, claim.is_some(), on_event)?;
            claim.map_or(Ok(()), |claim| desc.claim(app, claim))?;
            Ok::<_, Error>(desc)
        })??;
        Ok(Self { io: BlockIo::new(&Arc::new(desc))?, is_leaving })
    }

    /// Fails once the bdev is leaving the bus, so that the operation ends and closes it.
    ///
    /// # Errors
    /// `ENODEV`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_leaving.get() { Err(Error::no_such_device()) } else { Ok(()) }
    }

    /// The blocks of a range of bytes.
    pub(crate) fn blocks(&self, offset: u64, bytes: u64) -> Range {
        let block = u64::from(self.io.block_size());
        Range::new(offset / block, bytes / block)
    }
}

/// An open volume. `[app thread]`
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) store: Rc<LvStore>,
    pub(crate) info: Info,
    bdev: OpenBdev,
}

impl Source {
    /// Opens a read-only volume.
    ///
    /// # Errors
    /// `EPERM` when it is not read-only, `EBUSY` when an operation holds it, `ENODEV` when it is not on the bus.
    pub(crate) fn open(store: Rc<LvStore>, info: Info, operation: &'static str) -> Result<Self> {
        if !info.is_read_only {
            let message = format!("volume {} is not read-only", info.name);
            return Err(Error::new(errno::EPERM, message));
        }
        drop(store.store.begin(info.id, operation).map_err(crate::stores::error)?);
        let bdev = OpenBdev::new(&store.bdev_name(&info), None)?;
        Ok(Self { store, info, bdev })
    }

    /// Size of a cluster in bytes.
    pub(crate) fn cluster_size(&self) -> u64 {
        self.store.store.super_block().cluster_size.into()
    }

    /// Where the store reads a cluster of the volume.
    pub(crate) fn place(&self, index: u32) -> Place {
        self.store.store.place(self.info.id, index)
    }

    /// Reads a part of the volume, in bytes. Both numbers are multiples of the block size.
    ///
    /// # Errors
    /// `ENODEV` once the volume is leaving the bus, or the bdev's error.
    pub(crate) async fn read(&self, offset: u64, bytes: u64) -> Result<Buf> {
        self.bdev.check()?;
        self.bdev.io.read(self.bdev.blocks(offset, bytes)).await
    }
}
