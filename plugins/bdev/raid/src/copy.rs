//! Copies blocks between the members of an online array, on the app thread, while no I/O to them is in flight.

use crate::array::Array;
use crate::member::Member;
use crate::members;
use drivebay_sdk::App;
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::oneshot;
use drivebay_spec_raid::{Layout, Place};
use std::rc::Rc;

/// Runs `operation` while no I/O to `blocks` is in flight.
///
/// # Errors
/// Those of `operation`; `ENODEV` when the array is not on the bus.
pub(crate) async fn with_held<T>(
    app: &App,
    array: &Array,
    blocks: Range,
    operation: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let bdev = array.on_bus()?;
    let (done, quiet) = oneshot::channel();
    bdev.quiesce_blocks(app, blocks, move |_, status| drop(done.send(status)))?;
    quiet.await.map_err(|_| Error::new(errno::ECANCELED, "the bus is stopping"))??;
    let result = operation().await;
    bdev.unquiesce_blocks(app, blocks)?;
    result
}

/// Writes blocks of the array to a member, with the data of the other members. A failed write takes the member out;
/// a failed read takes nobody out. `spare` keeps a buffer for the next call.
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
    for run in runs(&layout, blocks) {
        let places: Vec<Place> = layout.copies(run.lba).collect();
        let Some(to) = places.iter().find(|place| place.member == target) else { continue };
        let others = places.iter().filter(|place| place.member != target);
        let buf = read_one(array, others, run, spare.take()).await?;
        *spare = Some(write_one(array, *to, run.nblocks, buf).await?);
    }
    Ok(())
}

/// Makes all copies of blocks equal: one that can be read is written to all members. A failed write takes the
/// member out.
///
/// # Errors
/// Why the copies may still differ.
pub(crate) async fn make_equal(array: &Array, blocks: Range) -> Result<()> {
    let layout = layout(array)?;
    for run in runs(&layout, blocks) {
        let places: Vec<Place> = layout.copies(run.lba).collect();
        let mut buf = read_one(array, &places, run, None).await?;
        // The copy that was read gets its own data again.
        for to in places.iter().filter(|place| member_of(array, place.member).is_some()) {
            buf = write_one(array, *to, run.nblocks, buf).await?;
        }
    }
    Ok(())
}

/// The pieces of `blocks` that lie one behind the other on the same members.
fn runs(layout: &Layout, blocks: Range) -> impl Iterator<Item = Range> {
    let end = blocks.lba + blocks.nblocks;
    let mut lba = blocks.lba;
    std::iter::from_fn(move || {
        let run = (lba < end).then(|| Range::new(lba, layout.run(lba, end - lba)))?;
        lba += run.nblocks;
        Some(run)
    })
}

/// Reads a run from the first of these places that can be read.
async fn read_one<'a>(
    array: &Array,
    places: impl IntoIterator<Item = &'a Place>,
    run: Range,
    mut spare: Option<Buf>,
) -> Result<Buf> {
    for from in places {
        let Some((source, offset)) = source(array, from.member) else { continue };
        let len = run.nblocks * u64::from(source.io.block_size());
        let room = match spare.take().filter(|buf| u64::from(buf.len()) == len) {
            Some(buf) => buf,
            None => source.io.buffer(run.nblocks)?,
        };
        match source.io.read_into(Range::new(offset + from.lba, run.nblocks), room).await {
            Ok(buf) => return Ok(buf),
            Err(error) => warn!("array {}: {error}", array.name),
        }
    }
    let Range { lba, nblocks } = run;
    let message = format!("{nblocks} blocks from {lba} cannot be read from any member");
    Err(Error::new(errno::EIO, message))
}

/// Writes blocks to a member. If that fails, the member is taken out.
async fn write_one(array: &Array, to: Place, nblocks: u64, buf: Buf) -> Result<Buf> {
    let (member, offset) = member_of(array, to.member).ok_or_else(gone)?;
    let written = member.io.write(Range::new(offset + to.lba, nblocks), buf).await;
    written.inspect_err(|error| {
        if array.survives_without(&[to.member]) {
            members::report_failure(array.uuid, member.serial, Status::errno(error.errno()));
        }
    })
}

fn layout(array: &Array) -> Result<Layout> {
    let shared = array.shared.borrow();
    shared.as_ref().map(|shared| shared.layout.clone()).ok_or_else(gone)
}

/// The slot's member, and its first data block.
fn member_of(array: &Array, number: u8) -> Option<(Rc<Member>, u64)> {
    let slots = array.slots.borrow();
    let slot = slots.get(usize::from(number))?;
    Some((slot.member.clone()?, slot.data_offset))
}

/// As [`member_of`], if the member may be read.
fn source(array: &Array, number: u8) -> Option<(Rc<Member>, u64)> {
    let is_target =
        array.slots.borrow().get(usize::from(number)).is_some_and(|slot| slot.is_target);
    member_of(array, number).filter(|_| !is_target)
}

fn gone() -> Error {
    Error::new(errno::ENODEV, "the member is gone")
}
