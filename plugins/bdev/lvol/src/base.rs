//! The base bdev as the disk of a store.

use crate::examine::parent_removed;
use drivebay_blobstore::{Disk, DiskError};
use drivebay_sdk::bdev::{Desc, Event, open};
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Zeros and unmaps go down in pieces of this many bytes, so that a large one does not block the
/// disk.
const PIECE_BYTES: u64 = 1 << 30;
/// Writes of metadata go down in pieces of this many bytes.
const WRITE_BYTES: usize = 1 << 20;
/// Reads go down in pieces of this many bytes, all through one buffer. New DMA memory costs as much time as the read.
const READ_BYTES: usize = 128 << 10;

/// An open base bdev, and those outside of the store that volumes have as parents.
#[derive(Debug)]
pub(crate) struct BaseDisk {
    io: BlockIo,
    block_size: u32,
    ops: OpSet,
    has_write_cache: bool,
    externals: RefCell<BTreeMap<Vec<u8>, BlockIo>>,
}

impl BaseDisk {
    pub(crate) fn new(desc: &Arc<Desc>) -> Result<Self> {
        let info = desc.info()?;
        Ok(Self {
            io: BlockIo::new(desc)?,
            block_size: info.block_size(),
            ops: info.ops(),
            has_write_cache: info.has_write_cache(),
            externals: RefCell::default(),
        })
    }

    /// The bdev with this name, for a parent outside of the store. It is opened when it is first
    /// needed. `None` if it does not exist.
    pub(crate) fn external(&self, name: &[u8]) -> Option<Arc<Desc>> {
        if let Some(io) = self.externals.borrow().get(name) {
            return Some(Arc::clone(io.desc()));
        }
        let text = std::str::from_utf8(name).ok()?.trim_end_matches('\0').to_owned();
        let of_event = name.to_vec();
        let on_event = move |_: &App, event| {
            if event == Event::Remove {
                parent_removed(&of_event);
            }
        };
        let desc = App::here(|app| open(app, &text, false, on_event));
        let desc = Arc::new(desc.and_then(|opened| opened).ok()?);
        if desc.info().ok()?.block_size() != self.block_size {
            warn!("bdev {text} has another block size than the store, so it cannot be a parent");
            return None;
        }
        let io = BlockIo::new(&desc).ok()?;
        self.externals.borrow_mut().insert(name.to_vec(), io);
        Some(desc)
    }

    /// Closes the descriptor of a parent that is removed.
    pub(crate) fn forget_external(&self, name: &[u8]) {
        self.externals.borrow_mut().remove(name);
    }

    fn range(&self, offset: u64, bytes: u64) -> Range {
        let block = u64::from(self.block_size);
        Range::new(offset / block, bytes / block)
    }

    async fn in_pieces(
        &self,
        offset: u64,
        len: u64,
        piece: impl AsyncFn(Range) -> Result<()>,
    ) -> Result<(), DiskError> {
        let mut done = 0;
        while done < len {
            let now = (len - done).min(PIECE_BYTES);
            piece(self.range(offset + done, now)).await.map_err(failed)?;
            done += now;
        }
        Ok(())
    }
}

fn failed(error: Error) -> DiskError {
    warn!("{error}");
    DiskError(error.errno())
}

async fn read(io: &BlockIo, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
    let block = u64::from(io.block_size());
    let mut data = Vec::with_capacity(len);
    let mut spare: Option<Buf> = None;
    while data.len() < len {
        let now = (len - data.len()).min(READ_BYTES);
        let range = Range::new((offset + data.len() as u64) / block, now as u64 / block);
        let buf = match spare.take().filter(|buf| buf[..].len() == now) {
            Some(buf) => buf,
            None => io.buffer(range.nblocks).map_err(failed)?,
        };
        let buf = io.read_into(range, buf).await.map_err(failed)?;
        data.extend_from_slice(&buf);
        spare = Some(buf);
    }
    Ok(data)
}

impl Disk for BaseDisk {
    fn size_bytes(&self) -> u64 {
        let blocks = self.io.desc().info().map_or(0, |info| info.num_blocks());
        blocks.saturating_mul(self.block_size.into())
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn has_write_cache(&self) -> bool {
        self.has_write_cache && self.ops.contains(OpSet::FLUSH)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        read(&self.io, offset, len).await
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), DiskError> {
        let mut at = offset;
        for piece in data.chunks(WRITE_BYTES) {
            let range = self.range(at, piece.len() as u64);
            let mut buf = self.io.buffer(range.nblocks).map_err(failed)?;
            buf.copy_from_slice(piece);
            self.io.write(range, buf).await.map_err(failed)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.in_pieces(offset, len, async |range| self.io.write_zeroes(range).await).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if !self.ops.contains(OpSet::UNMAP) {
            return Ok(());
        }
        self.in_pieces(offset, len, async |range| self.io.unmap(range).await).await
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.io.flush().await.map_err(failed)
    }

    async fn read_external(
        &self,
        name: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, DiskError> {
        let desc = self.external(name).ok_or(DiskError(errno::ENODEV))?;
        let io = self.externals.borrow().get(name).cloned().ok_or(DiskError(errno::ENODEV))?;
        let info = desc.info().map_err(failed)?;
        let end = info.num_blocks().saturating_mul(info.block_size().into());
        let there = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let mut data = if there == 0 { Vec::new() } else { read(&io, offset, there).await? };
        data.resize(len, 0);
        Ok(data)
    }
}
