//! Copies blocks between the members of an online array, on the app thread, while no I/O to them is in flight.

use crate::array::Array;
use crate::member::Member;
use crate::{arrays, members};
use drivebay_sdk::App;
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::{self, oneshot};
use drivebay_sdk::thread;
use drivebay_spec_raid::{Layout, Place, RowRole, fill_parity, recover};
use std::rc::Rc;
use std::sync::Arc;

/// Runs `operation` while no I/O to `blocks` is in flight. With parity, no I/O to their rows is in flight.
///
/// # Errors
/// The errors of `operation`; `ENODEV` when the array is not on the bus.
pub(crate) async fn with_held<T>(
    app: &App,
    array: &Array,
    blocks: Range,
    operation: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let bdev = array.on_bus()?;
    let layout = layout(array)?;
    let blocks = whole_rows(&layout, blocks);
    let (done, quiet) = oneshot::channel();
    bdev.quiesce_blocks(app, blocks, move |_, status| drop(done.send(status)))?;
    let quiet = quiet.await.map_err(|_| Error::new(errno::ECANCELED, "the bus is stopping"))?;
    let result = match quiet {
        Ok(()) => operation().await,
        // The bus holds back the I/O nevertheless.
        Err(error) => Err(error),
    };
    let released = bdev.unquiesce_blocks(app, blocks);
    let result = result?;
    released?;
    Ok(result)
}

/// Limits copies to the bandwidth of `bdev_raid_set_options`. A change of the options affects later copies only.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes per second; 0 = no limit.
    bandwidth: u64,
    next_ns: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let bandwidth = u64::from(arrays::options().bandwidth_mb) << 20;
        Self { bandwidth, next_ns: thread::now_ns() }
    }

    /// Waits until these blocks may be copied.
    pub(crate) async fn wait_for(&mut self, array: &Array, blocks: Range) {
        if self.bandwidth == 0 {
            return;
        }
        task::sleep_until(self.next_ns).await;
        let block_size =
            array.members().first().map_or(512, |(_, member)| member.info.block_size());
        let bytes = blocks.nblocks * u64::from(block_size);
        self.next_ns = self.next_ns.max(thread::now_ns()) + bytes * 1_000_000_000 / self.bandwidth;
    }
}

/// Copies blocks of the array from the other members to a member. If the write fails, the array removes the member; if a read
/// fails, it removes none. `spare` keeps a buffer for the next call.
///
/// # Errors
/// Why the blocks cannot be copied.
pub(crate) async fn to_member(
    array: &Array,
    serial: u64,
    blocks: Range,
    spare: &mut Option<Buf>,
) -> Result<()> {
    let target = array.slot_of(serial).ok_or_else(gone)?;
    let layout = layout(array)?;
    if layout.level().parities() > 0 {
        return strip_to_member(array, &layout, target, blocks).await;
    }
    for run in layout.runs(blocks.lba, blocks.nblocks) {
        let places: Vec<Place> = layout.copies(run.start).collect();
        let Some(to) = places.iter().find(|place| place.member == target) else { continue };
        let others = places.iter().filter(|place| place.member != target);
        let buf = read_one(array, others, &run, spare.take()).await?;
        *spare = Some(write_one(array, *to, run.end - run.start, buf).await?);
    }
    Ok(())
}

/// Makes all copies of blocks equal: reads one copy and writes it to all members. If a write fails, the array removes the
/// member.
///
/// # Errors
/// Why the copies may still differ.
pub(crate) async fn make_equal(array: &Array, blocks: Range) -> Result<()> {
    let layout = layout(array)?;
    if layout.level().parities() > 0 {
        return make_rows_agree(array, &layout, blocks).await;
    }
    for run in layout.runs(blocks.lba, blocks.nblocks) {
        let mut places: Vec<Place> = layout.copies(run.start).collect();
        places.retain(|place| member_of(array, place.member).is_some());
        if places.len() < 2 {
            // There is no other copy.
            continue;
        }
        let mut buf = read_one(array, &places, &run, None).await?;
        // The member that supplied the data gets it again.
        for to in &places {
            buf = write_one(array, *to, run.end - run.start, buf).await?;
        }
    }
    Ok(())
}

/// Writes a member's strips of the rows that hold `blocks`: data or parity, computed from the other strips.
pub(crate) async fn strip_to_member(
    array: &Array,
    layout: &Layout,
    target: u8,
    blocks: Range,
) -> Result<()> {
    for row in rows(layout, blocks) {
        let buf = strip_of(array, layout, row, target).await?;
        let to = Place { member: target, lba: row * layout.strip_blocks() };
        write_one(array, to, layout.strip_blocks(), buf).await?;
    }
    Ok(())
}

/// Computes the parities of rows from their data.
///
/// # Errors
/// The reason why a data strip cannot be read. The parities stay, because nothing tells whether they are right.
async fn make_rows_agree(array: &Array, layout: &Layout, blocks: Range) -> Result<()> {
    for number in rows(layout, blocks) {
        let row = layout.row(number);
        let mut strips: Vec<Option<Buf>> = (0..layout.members()).map(|_| None).collect();
        let data: Vec<u8> = (0..row.data_strips()).map(|data| row.data(data)).collect();
        let reads = data.iter().map(async |slot| read_strip(array, layout, number, *slot).await);
        for (slot, strip) in data.iter().zip(task::join_all(reads).await) {
            if let Some(place) = strips.get_mut(usize::from(*slot)) {
                *place = Some(strip?);
            }
        }
        for slot in row.parities() {
            // The rebuild of a missing member computes its parity.
            let Some((member, _)) = member_of(array, slot) else { continue };
            let mut parity = member.io.buffer(layout.strip_blocks())?;
            if !fill_parity(row, row.role(slot), &strips, &mut parity) {
                return Err(gone());
            }
            let to = Place { member: slot, lba: number * layout.strip_blocks() };
            write_one(array, to, layout.strip_blocks(), parity).await?;
        }
    }
    Ok(())
}

/// Reads a member's strip of a row, unless the array is rebuilding the member.
async fn read_strip(array: &Array, layout: &Layout, number: u64, slot: u8) -> Result<Buf> {
    let (source, offset) = source(array, slot).ok_or_else(gone)?;
    let at = offset + number * layout.strip_blocks();
    source.read(Range::new(at, layout.strip_blocks())).await
}

/// The blocks of all rows that hold `blocks`. For levels without parity, these blocks.
pub(crate) fn whole_rows(layout: &Layout, blocks: Range) -> Range {
    let rows = layout.whole_rows(blocks.lba, blocks.nblocks);
    Range::new(rows.start, rows.end - rows.start)
}

/// Numbers of the rows that hold `blocks`.
pub(crate) fn rows(layout: &Layout, blocks: Range) -> std::ops::RangeInclusive<u64> {
    let last = blocks.lba + blocks.nblocks.saturating_sub(1);
    layout.row_of(blocks.lba).0..=layout.row_of(last).0
}

/// What a member's strip of a row should hold, from the other strips. Parity comes from the data.
async fn strip_of(array: &Array, layout: &Layout, number: u64, slot: u8) -> Result<Buf> {
    let row = layout.row(number);
    let mut lost: Vec<u8> = (0..layout.members()).filter(|s| source(array, *s).is_none()).collect();
    if !lost.contains(&slot) {
        lost.push(slot);
    }
    loop {
        let mut strips: Vec<Option<Buf>> = (0..layout.members()).map(|_| None).collect();
        let missing = (0..row.data_strips()).filter(|data| lost.contains(&row.data(*data))).count();
        let data = (0..row.data_strips()).map(|data| row.data(data));
        let parities = row.parities().filter(|slot| !lost.contains(slot)).take(missing);
        let wanted: Vec<u8> = data.filter(|slot| !lost.contains(slot)).chain(parities).collect();
        let reads = wanted.iter().map(async |slot| read_strip(array, layout, number, *slot).await);
        let mut failed = None;
        for (slot, read) in wanted.iter().zip(task::join_all(reads).await) {
            match (read, strips.get_mut(usize::from(*slot))) {
                (Ok(strip), Some(place)) => *place = Some(strip),
                (Err(error), _) => failed = Some((*slot, error)),
                (Ok(_), None) => {}
            }
        }
        if let Some((slot, error)) = failed {
            // raid6 may do without one more strip.
            lost.push(slot);
            if lost.len() > usize::from(layout.level().parities()) {
                return Err(error);
            }
            continue;
        }
        if !recover(row, &mut strips) {
            let message = format!("too many strips of row {number} are missing");
            return Err(Error::new(errno::EIO, message));
        }
        let role = row.role(slot);
        if let (RowRole::Data(_), Some(strip)) = (role, strips.get_mut(usize::from(slot))) {
            return strip.take().ok_or_else(gone);
        }
        let (member, _) = member_of(array, slot).ok_or_else(gone)?;
        let mut parity = member.io.buffer(layout.strip_blocks())?;
        return if fill_parity(row, role, &strips, &mut parity) { Ok(parity) } else { Err(gone()) };
    }
}

/// Reads a run from the first of these places that can be read.
async fn read_one<'a>(
    array: &Array,
    places: impl IntoIterator<Item = &'a Place>,
    run: &std::ops::Range<u64>,
    mut spare: Option<Buf>,
) -> Result<Buf> {
    let nblocks = run.end - run.start;
    for from in places {
        let Some((source, offset)) = source(array, from.member) else { continue };
        let len = nblocks * u64::from(source.io.block_size());
        let room = match spare.take().filter(|buf| u64::from(buf.len()) == len) {
            Some(buf) => buf,
            None => source.io.buffer(nblocks)?,
        };
        match source.read_into(Range::new(offset + from.lba, nblocks), room).await {
            Ok(buf) => return Ok(buf),
            Err(error) => warn!("array {}: {error}", array.name),
        }
    }
    let message = format!("{nblocks} blocks from {} cannot be read from any member", run.start);
    Err(Error::new(errno::EIO, message))
}

/// Writes blocks to a member. If that fails, the array removes the member.
pub(crate) async fn write_one(array: &Array, to: Place, nblocks: u64, buf: Buf) -> Result<Buf> {
    let (member, offset) = member_of(array, to.member).ok_or_else(gone)?;
    let written = member.write(Range::new(offset + to.lba, nblocks), buf).await;
    written.inspect_err(|error| {
        let shared = array.shared.borrow().clone();
        if let Some(shared) = shared.filter(|_| array.survives_without(&[to.member])) {
            members::report_failure(&shared, member.serial, Status::errno(error.errno()));
        }
    })
}

fn layout(array: &Array) -> Result<Arc<Layout>> {
    let shared = array.shared.borrow();
    shared.as_ref().map(|shared| shared.layout()).ok_or_else(gone)
}

/// The slot's member, and its first data block.
pub(crate) fn member_of(array: &Array, number: u8) -> Option<(Rc<Member>, u64)> {
    let slots = array.slots.borrow();
    let slot = slots.get(usize::from(number))?;
    Some((slot.member.clone()?, slot.data_offset))
}

/// As [`member_of`], unless the array is rebuilding the member.
pub(crate) fn source(array: &Array, number: u8) -> Option<(Rc<Member>, u64)> {
    let is_target =
        array.slots.borrow().get(usize::from(number)).is_some_and(|slot| slot.is_target);
    member_of(array, number).filter(|_| !is_target)
}

pub(crate) fn gone() -> Error {
    Error::new(errno::ENODEV, "the member is gone")
}
