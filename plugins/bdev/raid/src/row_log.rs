//! The row log on the app thread: a start completes the changes that a crash interrupted.
//!
//! A change began to write to its row only after all of its parts were durable in the log. So if a part is missing on a member that
//! is there, the row is as before. If all are there, the start writes them again. This is harmless if the change was complete
//! already: a later change of the same blocks of a member would have overwritten the member's part.

use crate::array::Array;
use crate::member::Member;
use crate::superblock::Slots;
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{Layout, LogArea, LogEntry};
use std::rc::Rc;
use std::time::Duration;

/// What a replay did.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Slots of members that could not be written.
    pub(crate) failed: Vec<u8>,
    /// Whether the log of every member could be read, so that the strips of all rows agree now.
    pub(crate) was_readable: bool,
}

/// Completes the changes in the log of an array that starts with these members. `None` if the level has no log. `[app thread]`
pub(crate) async fn replay(array: &Array, members: &Slots, layout: &Layout) -> Option<Replay> {
    let (_, first) = members.first()?;
    let log = array.log_area(first)?;
    let mut replay = Replay { failed: Vec::new(), was_readable: true };
    let mut changed = 0_usize;
    for slot in 0..log.slots() {
        let reads = members.iter().map(async |(number, member)| {
            let found = read(array, *number, member, &log, slot, layout).await;
            found.inspect_err(|error| {
                warn!("array {}: the row log of slot {number} cannot be read: {error}", array.name);
            })
        });
        let mut entries = Vec::new();
        for ((number, member), found) in members.iter().zip(task::join_all(reads).await) {
            replay.was_readable &= found.is_ok();
            entries.extend(
                found.ok().flatten().map(|(entry, blocks)| (*number, member, entry, blocks)),
            );
        }
        let has_part = |change: &LogEntry, number: u8| {
            entries.iter().any(|(other, _, entry, _)| {
                *other == number && (entry.change, entry.row) == (change.change, change.row)
            })
        };
        let is_complete = |change: &LogEntry| {
            let mut present = members.iter().filter(|(number, _)| change.members.contains(*number));
            present.all(|(number, _)| has_part(change, *number))
        };
        let complete: Vec<bool> =
            entries.iter().map(|(_, _, entry, _)| is_complete(entry)).collect();
        for ((number, member, entry, blocks), _) in
            entries.into_iter().zip(complete).filter(|(_, is_complete)| *is_complete)
        {
            if let Err(error) = write(array, number, member, &entry, blocks, layout).await {
                warn!("array {}: a row cannot be written to slot {number}: {error}", array.name);
                replay.failed.push(number);
            }
            changed += 1;
        }
    }
    for (number, member) in members {
        if member.flush().await.is_err() {
            replay.failed.push(*number);
        }
    }
    replay.failed.sort_unstable();
    replay.failed.dedup();
    debug!("array {}: {changed} parts of the row log were written again", array.name);
    Some(replay)
}

/// Reads an entry of a member and its blocks. `None` if there is no whole entry that fits the array.
async fn read(
    array: &Array,
    number: u8,
    member: &Rc<Member>,
    log: &LogArea,
    slot: u32,
    layout: &Layout,
) -> Result<Option<(LogEntry, Buf)>> {
    let block_size = u64::from(member.io.block_size().max(1));
    let header_lba = log.header_at(slot) / block_size;
    let header = member.read(Range::new(header_lba, log.header_len() / block_size)).await?;
    let Some(entry) = LogEntry::parse(&header) else { return Ok(None) };
    let nblocks = u64::from(entry.len) / block_size;
    let fits = entry.array == array.uuid
        && entry.member == number
        && entry.row < layout.num_rows()
        && log.slot_of(entry.row) == slot
        && nblocks > 0
        && u64::from(entry.len) == nblocks * block_size
        && u64::from(entry.first) + nblocks <= layout.strip_blocks();
    if !fits {
        return Ok(None);
    }
    let blocks = member.read(Range::new(header_lba - nblocks, nblocks)).await?;
    Ok(LogEntry::is_whole(&header, &blocks).then_some((entry, blocks)))
}

async fn write(
    array: &Array,
    number: u8,
    member: &Rc<Member>,
    entry: &LogEntry,
    blocks: Buf,
    layout: &Layout,
) -> Result<()> {
    let offset = array.slots.borrow().get(usize::from(number)).map_or(0, |slot| slot.data_offset);
    let lba = offset + entry.row * layout.strip_blocks() + u64::from(entry.first);
    let nblocks = u64::from(entry.len) / u64::from(member.io.block_size().max(1));
    member.write(Range::new(lba, nblocks), blocks).await.map(drop)
}

/// Time limit for [`clear`]. The new member has no slot yet, so nobody could remove it if it hangs, and the caller has the lock of the
/// array.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);

/// Clears the log of a new member: it may have entries of an older array with the same UUID, or from before the member left.
/// `[app thread]`
///
/// # Errors
/// Why the log cannot be written; `ETIMEDOUT` after 30 seconds.
pub(crate) async fn clear(array: &Array, member: &Member) -> Result<()> {
    let Some(log) = array.log_area(member) else { return Ok(()) };
    let block_size = u64::from(member.io.block_size().max(1));
    let nblocks = log.header_len() / block_size;
    let cleared = async {
        let mut spare = member.io.buffer(nblocks)?;
        spare.fill(0);
        for slot in 0..log.slots() {
            let header = Range::new(log.header_at(slot) / block_size, nblocks);
            spare = member.write(header, spare).await?;
        }
        member.flush().await
    };
    task::timeout(CLEAR_LIMIT, cleared).await.map_err(|elapsed| {
        let message = format!("the row log of bdev {} cannot be cleared: {elapsed}", member.name());
        Error::new(errno::ETIMEDOUT, message)
    })?
}
