//! Growth: an array gets larger when all of its members have more room, and a raid1 gets a slot for another member.
//!
//! No block moves, so I/O goes on meanwhile. The superblock has the new size before the bus announces it.

use crate::array::{self, Array, State};
use crate::redundant::Redundant;
use crate::shared::Views;
use crate::striped::Striped;
use crate::{arrays, intent, members};
use drivebay_sdk::App;
use drivebay_sdk::bdev::{self, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{Intent, Layout, Level, MEMBERS_MAX, Superblock};
use std::rc::Rc;
use std::sync::Arc;

/// Grows the array of a member whose bdev has another size now. `[app thread]`
pub(crate) fn base_was_resized(app: &App, serial: u64) {
    let array = arrays::all().into_iter().find(|array| array.slot_of(serial).is_some());
    if let Some(array) = array {
        soon(app, &array);
    }
}

/// Grows an array in a task if all of its members have more room. `[app thread]`
pub(crate) fn soon(app: &App, array: &Rc<Array>) {
    let array = Rc::clone(array);
    let grow = async move |app: &App| {
        if let Err(error) = to_members(app, &array).await {
            warn!("array {} does not grow: {error}", array.name);
        }
    };
    if let Ok(task) = task::spawn_app(app, "raid grow", grow) {
        task.detach();
    }
}

/// Gives an online array the room that all of its members have.
///
/// # Errors
/// Why the array keeps its size.
async fn to_members(app: &App, array: &Rc<Array>) -> Result<()> {
    let _guard = array.lock.lock("grow").await;
    if array.state.get() != State::Online || array.is_ending.get() {
        return Ok(());
    }
    let Some((_, first)) = array.members().first().cloned() else { return Ok(()) };
    if let Some(larger) = larger(array)? {
        check_regions(array, &larger, u64::from(first.data_block_size()))?;
        record(array, array.layout(&first)?.num_blocks(), &larger).await?;
    }
    announce(app, array, array.layout(&first)?).await
}

/// The layout with all the room that the members have. `None` if the array cannot grow: a member is missing, is being rebuilt, or
/// has no more room.
///
/// # Errors
/// `EINVAL` for members that together are too large.
pub(crate) fn larger(array: &Array) -> Result<Option<Layout>> {
    let slots = array.slots.borrow();
    let (mut known, mut rooms) = (Vec::new(), Vec::new());
    for (number, slot) in slots.iter().enumerate() {
        let Some(member) = slot.member.as_ref().filter(|_| !slot.is_target) else {
            return Ok(None);
        };
        let room = member.num_blocks()?.saturating_sub(slot.data_offset);
        if room < slot.data_size {
            let message = format!(
                "bdev {} shrank to {room} data blocks; the array needs {}",
                member.name(),
                slot.data_size
            );
            return Err(Error::new(errno::EINVAL, message));
        }
        // Only the last member of a concat can grow without moving blocks.
        let can_grow = array.level != Level::Concat || number + 1 == slots.len();
        known.push(slot.data_size);
        rooms.push(if can_grow { room } else { slot.data_size });
    }
    let Some(member) = slots.first().and_then(|slot| slot.member.clone()) else { return Ok(None) };
    let (known, larger) = (array.layout_of(&member, &known)?, array.layout_of(&member, &rooms)?);
    Ok((larger.num_blocks() > known.num_blocks()).then_some(larger))
}

/// Gives the slots of an array the sizes of a layout.
pub(crate) fn set_size(array: &Array, layout: &Layout) {
    for (slot, number) in array.slots.borrow_mut().iter_mut().zip(0_u8..) {
        slot.data_size = layout.used_blocks(number);
    }
}

/// Gives a superblock the sizes of a layout, in the entries of empty slots, too.
pub(crate) fn set_superblock_size(superblock: &mut Superblock, layout: &Layout) {
    superblock.num_blocks = layout.num_blocks();
    for entry in &mut superblock.members {
        entry.data_size = layout.used_blocks(entry.slot);
    }
}

/// The number of regions of a write-intent record is limited, and the size of a region does not change while the array is online.
fn check_regions(array: &Array, larger: &Layout, block_size: u64) -> Result<()> {
    let shared = array.shared.borrow();
    let marks = shared.as_ref().and_then(|shared| shared.marks.as_ref());
    let shift = intent::region_shift_of(larger, block_size);
    if marks.is_some_and(|marks| marks.region_shift != shift) {
        let message = format!(
            "for {} blocks, its write-intent record needs larger regions; the array grows when it starts again",
            larger.num_blocks()
        );
        return Err(Error::new(errno::EINVAL, message));
    }
    Ok(())
}

/// Records the new size on all members. Members that cannot be written leave the array if it can go on without them.
///
/// # Errors
/// `EIO` when the array needs a member that cannot be written. Its slots and its superblock keep their sizes, so that the next attempt
/// records the new size again.
async fn record(array: &Array, old_end: u64, larger: &Layout) -> Result<()> {
    let members = array.members();
    let before = array.superblock.borrow().clone();
    let Some(before) = before else {
        set_size(array, larger);
        return Ok(());
    };
    let shared = array.shared.borrow().clone();
    // Modifying a parity needs one that is right, so the array computes those of the new rows.
    let has_log = larger.level().has_log();
    let marks = shared.as_ref().and_then(|shared| shared.marks.as_ref()).filter(|_| has_log);
    let unsynced = marks.map(|marks| {
        let blocks = Range::new(old_end, larger.num_blocks() - old_end);
        (marks, blocks, marks.may_compute_all())
    });
    let mut update = array::next(&before);
    let sequence = update.sequence;
    set_superblock_size(&mut update, larger);
    let note = |intent: &mut Intent| {
        if let Some((marks, blocks, is_no_evidence)) = unsynced {
            intent.was_used_by_another = is_no_evidence;
            marks.regions(blocks).for_each(|region| _ = intent.regions.insert(region));
        }
    };
    let failed = members::write_superblock(array, &members, update, note).await;
    if let Some((marks, blocks, is_no_evidence)) = unsynced {
        marks.set_unsynced(blocks, is_no_evidence);
    }
    if !failed.is_empty() {
        let Some(shared) = shared.as_ref().filter(|_| array.survives_without(&failed)) else {
            // Some members may have the new size on record, so the next record needs a higher sequence number.
            array.superblock.replace(Some(Superblock { sequence, ..before }));
            let message = format!("the superblock cannot be written to slots {failed:?}");
            return Err(Error::new(errno::EIO, message));
        };
        intent::report_failures(shared, &members, &failed);
    }
    set_size(array, larger);
    Ok(())
}

/// Tells the bus and the channels the size that is on record.
async fn announce(app: &App, array: &Array, layout: Layout) -> Result<()> {
    let num_blocks = layout.num_blocks();
    let Some(before) = array.profile.borrow().as_ref().map(|profile| profile.geometry) else {
        return Ok(());
    };
    if before.num_blocks() >= num_blocks {
        return Ok(());
    }
    let shared = array.shared.borrow().clone();
    if let Some(shared) = shared {
        let layout = Arc::new(layout);
        shared.switch(|views: &mut Views| views.fit(&layout)).await?;
        bdev::find::<Redundant>(&array.name)?.resize(app, num_blocks)?;
    } else {
        bdev::find::<Striped>(&array.name)?.resize(app, num_blocks)?;
    }
    if let Some(profile) = &mut *array.profile.borrow_mut() {
        profile.geometry = Geometry::new_any(before.block_size(), num_blocks)?;
    }
    info!("array {} grew from {} to {num_blocks} blocks", array.name, before.num_blocks());
    Ok(())
}

/// Adds a slot to a raid1 and rebuilds a bdev in it. A failure leaves the array as before. `[app thread]`
///
/// # Errors
/// `EINVAL` for other levels, and when a slot is empty; the errors of [`members::add`].
pub(crate) async fn by_member(app: &App, array: &Rc<Array>, name: &str) -> Result<()> {
    let info = open(app, name, false, |_, _| {})?.info()?;
    let _guard = array.lock.lock("add slot").await;
    members::check_no_rebuild(array)?;
    let refuse = |why: String| {
        Err(Error::new(errno::EINVAL, format!("array {} cannot get a slot: {why}", array.name)))
    };
    if array.level != Level::Raid1 {
        return refuse(format!("{} would have to move its data; allowed: raid1", array.level));
    }
    if array.state.get() != State::Online {
        return refuse("it is not online".to_owned());
    }
    let number = {
        let mut slots = array.slots.borrow_mut();
        if let Some(empty) = slots.iter().position(array::Slot::is_empty) {
            return refuse(format!("slot {empty} is empty, and bdev_raid_add_base_bdev fills it"));
        }
        let number = u8::try_from(slots.len()).ok().filter(|_| slots.len() < MEMBERS_MAX);
        let Some(number) = number else {
            return refuse(format!("it has {} members; allowed: {MEMBERS_MAX}", slots.len()));
        };
        let data_size = slots.first().map_or(0, |slot| slot.data_size);
        slots.push(array::Slot { data_size, ..array::Slot::default() });
        number
    };
    let added = members::fill_slot(app, array, number, name, &info).await;
    if added.is_err() {
        array.slots.borrow_mut().pop();
        remove_last_view(array).await?;
    }
    added
}

/// Takes the slot back that a raid1 got for a member that could not be added.
async fn remove_last_view(array: &Array) -> Result<()> {
    let shared = array.shared.borrow().clone();
    let first = array.members().first().map(|(_, member)| Rc::clone(member));
    let (Some(shared), Some(first)) = (shared, first) else { return Ok(()) };
    let layout = Arc::new(array.layout(&first)?);
    shared.switch(|views| views.fit(&layout)).await
}
