//! A scrub reads all copies of all blocks, and reports blocks that differ or cannot be read. It repairs them if the operator asks for
//! that.
//!
//! I/O to a window waits during its check. The first copy, or the data of a row with parity, counts as right.

use crate::array::{Array, State};
use crate::copy::{self, member_of, rows, source};
use crate::shared::Shared;
use drivebay_sdk::App;
use drivebay_sdk::buf::Buf;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_spec_raid::{Layout, Place, fill_parity};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the array that a scrub checks at a time. It stops between two windows.
const WINDOW: u64 = 256 << 10;
/// How long a stop waits for the end of the window.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A scrub of an array: running, stopped or done.
#[derive(Debug)]
pub(crate) struct Scrub {
    repairs: bool,
    num_blocks: u64,
    /// The scrub has checked all blocks of the array below this one.
    position: Cell<u64>,
    found: Cell<Found>,
    is_running: Cell<bool>,
    is_stopping: Cell<bool>,
    changed: Notify,
}

/// What a scrub found, in blocks of members.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    differing: u64,
    unreadable: u64,
    repaired: u64,
}

impl Scrub {
    /// The fields that `bdev_raid_get_bdevs` shows.
    pub(crate) fn show(&self) -> Value {
        let blocks = self.position.get();
        let state = match (self.is_running.get(), blocks == self.num_blocks) {
            (true, _) => "running",
            (false, false) => "stopped",
            (false, true) => "done",
        };
        let Found { differing, unreadable, repaired } = self.found.get();
        json!({
            "state": state,
            "repair": self.repairs,
            "progress": {"blocks": blocks, "percent": blocks.saturating_mul(100) / self.num_blocks.max(1)},
            "differing_blocks": differing,
            "unreadable_blocks": unreadable,
            "repaired_blocks": repaired,
        })
    }
}

/// Starts a scrub, or continues a stopped one. `[app thread]`
///
/// # Errors
/// `EINVAL` for an array without copies; `EBUSY` while a scrub runs; `ENODEV` when the array is not online, or has parity and
/// lacks a member.
pub(crate) fn start(app: &App, array: &Rc<Array>, repairs: bool) -> Result<()> {
    let refuse = |code, why: &str| Err(Error::new(code, format!("array {} {why}", array.name)));
    if array.state.get() != State::Online {
        return refuse(errno::ENODEV, "is not online");
    }
    let shared = array.shared.borrow().clone();
    let Some(shared) = shared else {
        return refuse(errno::EINVAL, "has no copies to compare");
    };
    if !may_compare(array, &shared.layout()) {
        return refuse(errno::ENODEV, "lacks a member, so its parity cannot be checked");
    }
    let before = array.scrub.borrow().clone();
    if before.as_ref().is_some_and(|scrub| scrub.is_running.get()) {
        return refuse(errno::EBUSY, "is being scrubbed");
    }
    let num_blocks = shared.layout().num_blocks();
    // The array may have grown since a scrub that is done, and then the next one checks all blocks.
    let goes_on = before.filter(|scrub| scrub.position.get() < scrub.num_blocks);
    let scrub = Rc::new(Scrub {
        repairs,
        num_blocks,
        position: Cell::new(goes_on.as_ref().map_or(0, |scrub| scrub.position.get())),
        found: Cell::new(goes_on.map_or(Found::default(), |scrub| scrub.found.get())),
        is_running: Cell::new(true),
        is_stopping: Cell::new(false),
        changed: Notify::new(),
    });
    let (of_task, scrubbed) = (Rc::clone(array), Rc::clone(&scrub));
    let run = async move |app: &App| run(app, &of_task, &shared, &scrubbed).await;
    task::spawn_app(app, format!("raid scrub {}", array.name), run)?.detach();
    array.scrub.replace(Some(scrub));
    Ok(())
}

/// Stops the scrub of an array and waits until it has stopped, but at most [`STOP_LIMIT`]. `[app thread]`
///
/// # Errors
/// `ENODEV` when the array is not being scrubbed; `EBUSY` when the scrub waits for I/O of a member, after which it stops.
pub(crate) async fn stop(array: &Array) -> Result<()> {
    let scrub = array.scrub.borrow().clone().filter(|scrub| scrub.is_running.get());
    let Some(scrub) = scrub else {
        let message = format!("array {} is not being scrubbed", array.name);
        return Err(Error::new(errno::ENODEV, message));
    };
    scrub.is_stopping.set(true);
    scrub.changed.notify();
    let stopped = scrub.changed.until(|| !scrub.is_running.get());
    task::timeout(STOP_LIMIT, stopped).await.map_err(|_| {
        let message = format!(
            "the scrub of array {} stops when I/O that it waits for has ended; a member may hang, and bdev_raid_remove_base_bdev removes it",
            array.name
        );
        Error::new(errno::EBUSY, message)
    })
}

/// Whether a scrub can compare anything: with parity, it needs all members.
fn may_compare(array: &Array, layout: &Layout) -> bool {
    layout.level().parities() == 0
        || (0..layout.members()).all(|slot| source(array, slot).is_some())
}

async fn run(app: &App, array: &Array, shared: &Arc<Shared>, scrub: &Scrub) {
    let ended = check_all(app, array, shared, scrub).await;
    let Found { differing, unreadable, repaired } = scrub.found.get();
    let name = &array.name;
    match ended {
        Ok(()) => info!(
            "array {name}: scrubbed the blocks below {}: {differing} blocks differ, {unreadable} cannot be read, {repaired} were repaired",
            scrub.position.get()
        ),
        Err(error) => warn!("array {name}: the scrub has stopped: {error}"),
    }
    scrub.is_running.set(false);
    scrub.changed.notify();
}

async fn check_all(app: &App, array: &Array, shared: &Arc<Shared>, scrub: &Scrub) -> Result<()> {
    let layout = shared.layout();
    let layout = &*layout;
    let window =
        (WINDOW / block_size(array) as u64).max(1).next_multiple_of(layout.row_blocks().max(1));
    let mut pace = copy::Pace::new();
    while scrub.position.get() < scrub.num_blocks {
        let lba = scrub.position.get();
        let blocks = Range::new(lba, window.min(scrub.num_blocks - lba));
        let stop = scrub.changed.until(|| scrub.is_stopping.get());
        if let task::Either::Left(()) = task::select(stop, pace.wait_for(array, blocks)).await {
            return Ok(());
        }
        if !may_compare(array, layout) {
            return Err(Error::new(errno::ENODEV, "a member is missing"));
        }
        // Copies of torn regions may differ; `intent` makes them equal.
        let is_torn = shared.marks.as_ref().is_some_and(|marks| marks.is_torn(blocks));
        if !is_torn {
            let found = copy::with_held(app, array, blocks, async || {
                if layout.level().parities() > 0 {
                    check_rows(array, layout, blocks, scrub.repairs).await
                } else {
                    check_copies(array, layout, blocks, scrub.repairs).await
                }
            });
            let found = found.await?;
            let mut total = scrub.found.get();
            total.differing += found.differing;
            total.unreadable += found.unreadable;
            total.repaired += found.repaired;
            scrub.found.set(total);
        }
        scrub.position.set(lba + blocks.nblocks);
        task::yield_now().await;
    }
    Ok(())
}

/// Compares all copies of blocks with the first readable copy.
async fn check_copies(
    array: &Array,
    layout: &Layout,
    blocks: Range,
    repairs: bool,
) -> Result<Found> {
    let mut found = Found::default();
    for run in layout.runs(blocks.lba, blocks.nblocks) {
        let nblocks = run.end - run.start;
        let mut places: Vec<Place> = layout.copies(run.start).collect();
        places.retain(|place| source(array, place.member).is_some());
        let reads = places.iter().map(|place| read(array, *place, nblocks));
        let copies = task::join_all(reads).await;
        let Some(right) = copies.iter().find_map(|copy| copy.as_ref().ok()) else {
            found.unreadable += nblocks * places.len().min(1) as u64;
            continue;
        };
        for (place, copy) in places.iter().zip(&copies) {
            let wrong = match copy {
                Ok(copy) => {
                    let differing = count_differing(right, copy, block_size(array));
                    found.differing += differing;
                    differing
                }
                // The array is removing the member.
                Err(error) if error.errno() == errno::ENODEV => 0,
                Err(_) => {
                    found.unreadable += nblocks;
                    nblocks
                }
            };
            if repairs && wrong > 0 {
                write(array, *place, nblocks, right).await?;
                found.repaired += wrong;
            }
        }
    }
    Ok(found)
}

/// Checks that the parities of each row are those of its data.
async fn check_rows(array: &Array, layout: &Layout, blocks: Range, repairs: bool) -> Result<Found> {
    let mut found = Found::default();
    let nblocks = layout.strip_blocks();
    for number in rows(layout, blocks) {
        let row = layout.row(number);
        let place = |member| Place { member, lba: number * nblocks };
        let reads = (0..layout.members()).map(|slot| read(array, place(slot), nblocks));
        let strips = task::join_all(reads).await;
        let is_gone =
            |strip: &Result<Buf>| strip.as_ref().is_err_and(|error| error.errno() == errno::ENODEV);
        if strips.iter().any(is_gone) {
            return Err(copy::gone());
        }
        let unreadable = strips.iter().zip(0..).filter(|(strip, _)| strip.is_err());
        let unreadable: Vec<u8> = unreadable.map(|(_, slot)| slot).collect();
        let (targets, wrong) = if unreadable.is_empty() {
            let strips: Vec<Option<Buf>> = strips.into_iter().map(Result::ok).collect();
            let mut differing = 0;
            for slot in row.parities() {
                let Some(Some(parity)) = strips.get(usize::from(slot)) else { continue };
                let mut right = vec![0; parity.len() as usize];
                if fill_parity(row, row.role(slot), &strips, &mut right) {
                    differing += count_differing(&right, parity, block_size(array));
                }
            }
            found.differing += differing;
            (row.parities().collect(), differing)
        } else {
            let wrong = nblocks * unreadable.len() as u64;
            found.unreadable += wrong;
            (unreadable, wrong)
        };
        let can_repair = targets.len() <= usize::from(layout.level().parities());
        if repairs && wrong > 0 && can_repair {
            for slot in targets {
                let blocks = Range::new(number * layout.row_blocks(), 1);
                copy::strip_to_member(array, layout, slot, blocks).await?;
            }
            found.repaired += wrong;
        }
    }
    Ok(found)
}

/// Bytes of a block.
fn block_size(array: &Array) -> usize {
    let members = array.members();
    members.first().map_or(512, |(_, member)| member.info.block_size().max(1) as usize)
}

/// How many blocks of two buffers differ.
fn count_differing(one: &[u8], other: &[u8], block_size: usize) -> u64 {
    if one == other {
        return 0;
    }
    one.chunks(block_size).zip(other.chunks(block_size)).filter(|(one, other)| one != other).count()
        as u64
}

async fn read(array: &Array, from: Place, nblocks: u64) -> Result<Buf> {
    let (member, offset) = source(array, from.member).ok_or_else(copy::gone)?;
    member.read(Range::new(offset + from.lba, nblocks)).await
}

async fn write(array: &Array, to: Place, nblocks: u64, data: &[u8]) -> Result<()> {
    let (member, _) = member_of(array, to.member).ok_or_else(copy::gone)?;
    let mut buf = member.io.buffer(nblocks)?;
    buf.copy_from_slice(data);
    copy::write_one(array, to, nblocks, buf).await.map(drop)
}
