//! Reads, writes and clears the superblocks on members.
//!
//! Each member has one copy, and a power cut may tear it. So the first member is written and flushed before the
//! others. With two or more members, there is a whole copy at any time, old or new.

use crate::member::Member;
use drivebay_sdk::bdev::Info;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{HEADER_LEN, Superblock, SuperblockError, declared_len};
use std::rc::Rc;
use std::time::Duration;

/// Slot numbers and their members.
pub(crate) type Slots = Vec<(u8, Rc<Member>)>;

/// Whether the bdev can hold a superblock: its blocks have neither interleaved metadata nor protection information.
pub(crate) fn is_possible(info: &Info) -> bool {
    info.raw().md_interleave == 0 && info.raw().dif_type == 0
}

/// Reads the superblock of a bdev; `None` when there is none or it is damaged.
///
/// # Errors
/// Why the bdev cannot be read.
pub(crate) async fn read(io: &BlockIo, info: &Info) -> Result<Option<Superblock>> {
    let mut bytes = read_start(io, info, HEADER_LEN).await?;
    if let Some(len) = declared_len(&bytes).filter(|len| *len > bytes.len()) {
        bytes = read_start(io, info, len).await?;
    }
    match Superblock::parse(&bytes) {
        Ok(superblock) => Ok(Some(superblock)),
        Err(SuperblockError::NoSignature) => Ok(None),
        Err(error) => {
            warn!("the RAID superblock of bdev {} is ignored: {error}", info.name());
            Ok(None)
        }
    }
}

/// Whether a member has a superblock that a power cut has torn: its start is there, but its checksum is wrong.
///
/// # Errors
/// Why the member cannot be read.
pub(crate) async fn is_torn(member: &Member) -> Result<bool> {
    let start = read_start(&member.io, &member.info, HEADER_LEN).await?;
    let Some(len) = declared_len(&start) else { return Ok(false) };
    let bytes = read_start(&member.io, &member.info, len).await?;
    Ok(matches!(Superblock::parse(&bytes), Err(SuperblockError::Crc { .. })))
}

async fn read_start(io: &BlockIo, info: &Info, len: usize) -> Result<Vec<u8>> {
    let nblocks = (len as u64).div_ceil(io.block_size().into()).min(info.num_blocks());
    Ok(task::timeout(READ_LIMIT, io.read(Range::new(0, nblocks))).await??.to_vec())
}

/// Time limit for the read of a superblock. Other examinations, and other changes of the array, wait for the read.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Writes and flushes the superblock. Returns the slots on which that failed.
pub(crate) async fn write(members: &Slots, superblock: &Superblock) -> Vec<u8> {
    put_on(members, &superblock.to_bytes()).await
}

/// Overwrites the superblock with zeros. Returns the slots on which that failed.
pub(crate) async fn clear(members: &Slots, superblock: &Superblock) -> Vec<u8> {
    put_on(members, &vec![0; superblock.to_bytes().len()]).await
}

async fn put_on(members: &Slots, bytes: &[u8]) -> Vec<u8> {
    let put_on = async |(slot, member): &(u8, Rc<Member>)| {
        let error = put(member, 0, bytes).await.err()?;
        warn!("the superblock cannot be written to bdev {}: {error}", member.name());
        Some(*slot)
    };
    let (first, others) = members.split_at(members.len().min(1));
    let mut failed = task::join_all(first.iter().map(put_on)).await;
    failed.extend(task::join_all(others.iter().map(put_on)).await);
    failed.into_iter().flatten().collect()
}

/// Writes bytes to a member, `at` bytes from its start, which is a multiple of 64 KiB, and flushes it.
pub(crate) async fn put(member: &Member, at: u64, bytes: &[u8]) -> Result<()> {
    let block_size = u64::from(member.io.block_size());
    let nblocks = (bytes.len() as u64).div_ceil(block_size);
    let mut buf = member.io.buffer(nblocks)?;
    buf.fill(0);
    buf.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    member.write(Range::new(at / block_size, nblocks), buf).await?;
    member.flush().await
}
