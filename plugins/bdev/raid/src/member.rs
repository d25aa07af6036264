//! A base bdev that an array has opened and claimed.

use crate::members;
use drivebay_sdk::App;
use drivebay_sdk::bdev::{Claim, Desc, Event, Info, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Serial number of the next member of any array. A late report about an old member never hits its successor.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// An open base bdev. The claim and the descriptor end when this and the channels' copies are dropped.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) serial: u64,
    pub(crate) info: Info,
    pub(crate) desc: Arc<Desc>,
    /// The app thread's channel, for superblocks and rebuilds.
    pub(crate) io: BlockIo,
}

impl Member {
    /// Opens and claims a bdev. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV`; `EPERM` when another user has claimed the bdev.
    pub(crate) fn open(app: &App, name: &str) -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let desc = open(app, name, true, move |app, event| match event {
            Event::Remove => members::base_is_gone(app, serial),
            Event::Resize { .. } => {
                info!("a member of an array was resized; the array keeps its size")
            }
            _ => {}
        })?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        let desc = Arc::new(desc);
        Ok(Self { serial, info: desc.info()?, io: BlockIo::new(&desc)?, desc })
    }

    /// The bdev's name.
    pub(crate) fn name(&self) -> &str {
        self.info.name()
    }

    /// Bytes of data in a block, without interleaved metadata.
    pub(crate) fn data_block_size(&self) -> u32 {
        data_block_size(&self.info)
    }
}

/// As [`Member::data_block_size`], for any bdev.
pub(crate) fn data_block_size(info: &Info) -> u32 {
    let raw = info.raw();
    let metadata = if raw.md_interleave != 0 { raw.md_size } else { 0 };
    info.block_size().saturating_sub(metadata)
}
