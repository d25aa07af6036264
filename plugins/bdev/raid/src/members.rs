//! Changes of the members: an array adds them, removes them, and takes them back.
//!
//! A write that failed on a member waits in its lane. [`retire`] records the failure in the superblocks of the
//! remaining members and flushes them. Only then do the channels go on without the member.

use crate::array::{self, Array, Candidate, Slot, State};
use crate::arrays;
use crate::assemble::Examinations;
use crate::intent;
use crate::marks::Marks;
use crate::member::Member;
use crate::rebuild::{self, Lacks, Rebuild};
use crate::row_log;
use crate::shared::{Shared, Views};
use crate::superblock::{self, Slots};
use drivebay_sdk::App;
use drivebay_sdk::bdev::{Info, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{self as spec, Away, Intent, MemberState, Superblock};
use std::rc::Rc;
use std::sync::Arc;

/// Removes a member on which a write, flush or unmap failed. `[any thread]`
pub(crate) fn report_failure(shared: &Arc<Shared>, serial: u64, status: Status) {
    let report = Report { shared: Arc::clone(shared), serial, status, has_ended: false };
    let retire = async move |app: &App| report.run(app).await;
    // If the thread refuses the task, the drop of the report fails the I/O that waits for it.
    _ = task::spawn_on_app("raid member failed", retire).map(task::JoinHandle::detach);
}

/// The task that removes a member that failed. If it is dropped before its end, because the app thread runs too many
/// tasks or has ended, the I/O that waits for it fails. The member stays, and a lane reports its next failure again.
struct Report {
    shared: Arc<Shared>,
    serial: u64,
    status: Status,
    has_ended: bool,
}

impl Report {
    async fn run(mut self, app: &App) {
        if let Some(array) = arrays::by_uuid(self.shared.uuid) {
            let is_gone = self.status == Status::errno(errno::ENODEV);
            let state = if is_gone { MemberState::Missing } else { MemberState::Failed };
            if let Err(error) = retire(app, &array, self.serial, state).await {
                error!("array {}: {error}", array.name);
            }
        }
        self.has_ended = true;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.has_ended {
            warn!(
                "a failed member of array {} stays for now, because no task can remove it",
                Uuid(self.shared.uuid)
            );
            self.shared.fail_held();
        }
    }
}

/// Takes out a member whose bdev leaves the bus. `[app thread]`
pub(crate) fn base_is_gone(app: &App, serial: u64) {
    let retire = async move |app: &App| {
        let array = arrays::all().into_iter().find(|array| array.slot_of(serial).is_some());
        let Some(array) = array else { return };
        if let Err(error) = retire(app, &array, serial, MemberState::Missing).await {
            error!("array {}: {error}", array.name);
        }
    };
    if let Ok(task) = task::spawn_app(app, "raid base removed", retire) {
        task.detach();
    }
}

/// Removes a member: records that first, then changes the data path. An array that needs the member goes offline.
/// `[app thread]`
///
/// # Errors
/// Why the array went offline.
pub(crate) async fn retire(
    app: &App,
    array: &Rc<Array>,
    serial: u64,
    as_state: MemberState,
) -> Result<()> {
    // Mark the member before taking the lock: the holder of the lock may wait for I/O of this member, which may hang.
    let member = array.members().into_iter().find(|(_, member)| member.serial == serial);
    let Some((number, member)) = member else { return Ok(()) };
    member.set_leaving(as_state == MemberState::Missing || array.survives_without(&[number]));
    let guard = array.lock.lock("remove member").await;
    let Some(number) = array.slot_of(serial) else { return Ok(()) };
    if array.state.get() != State::Online {
        empty(array, number, array.state.get() == State::Configuring);
        return Ok(());
    }
    let mut gone = vec![number];
    if !array.survives_without(&gone) && as_state == MemberState::Failed {
        // Another member failed at the same time. The lanes send the I/O that waits again, and it ends with its own error.
        member.set_leaving(false);
        let shared = array.shared.borrow().clone();
        return match shared {
            Some(shared) => shared.switch(|_| {}).await,
            None => Ok(()),
        };
    }
    if !array.survives_without(&gone) {
        warn!("array {} goes offline: it needs the member of slot {number}", array.name);
        array.take_off(app).await;
        empty(array, number, false);
        return Ok(());
    }
    info!("array {}: removing the member of slot {number}", array.name);
    if let Err(error) = record(array, &mut gone, as_state).await {
        array.take_off(app).await;
        empty(array, number, false);
        return Err(error);
    }
    // Records do not wait for these members from here on.
    gone.iter().for_each(|number| empty(array, *number, false));
    let shared = array.shared.borrow().clone();
    if let Some(shared) = shared {
        let leave = |views: &mut Views| gone.iter().for_each(|gone| views.set(*gone, None));
        shared.switch(leave).await?;
        drop(guard);
        if !shared.drain().await {
            warn!(
                "array {}: removed members still have I/O, which keeps their bdevs and the clients' buffers until it ends",
                array.name
            );
        }
    }
    Ok(())
}

/// Empties a slot. With `waits`, the slot still waits for the same member.
pub(crate) fn empty(array: &Array, number: u8, waits: bool) {
    let member = {
        let mut slots = array.slots.borrow_mut();
        let Some(slot) = slots.get_mut(usize::from(number)) else { return };
        slot.is_target = false;
        // The UUID identifies a member that a superblock lists.
        if !waits || array.has_superblock {
            slot.name = None;
        }
        if !waits {
            slot.uuid = [0; 16];
            // The next member gets its own offset.
            slot.data_offset = 0;
        }
        let member = slot.member.take();
        if let Some(member) = member.as_ref().filter(|_| !waits) {
            // Only a bdev that appears from now on brings it back. A bdev that leaves the bus may be back already.
            array.returning.borrow_mut().retain(|uuid| *uuid != member.info.uuid());
            if !member.is_gone() {
                slot.examined = Examinations::begun();
            }
        }
        member
    };
    if let (Some(rebuild), Some(member)) = (&*array.rebuild.borrow(), &member)
        && rebuild.serial == member.serial
    {
        rebuild.ask_to_stop();
    }
    drop(member);
}

/// Records on the other members that the members of `gone` left. Adds to `gone` each member that cannot be written.
///
/// # Errors
/// `EIO` when the array cannot go on with the members that can be written.
async fn record(array: &Array, gone: &mut Vec<u8>, as_state: MemberState) -> Result<()> {
    loop {
        let known = array.superblock.borrow().clone();
        let Some(known) = known else { return Ok(()) };
        let mut update = array::next(&known);
        for entry in &mut update.members {
            if gone.contains(&entry.slot) && entry.state == MemberState::Configured {
                entry.state =
                    if Some(&entry.slot) == gone.first() { as_state } else { MemberState::Failed };
            }
        }
        let members: Vec<_> =
            array.members().into_iter().filter(|(slot, _)| !gone.contains(slot)).collect();
        let mut failed = superblock::write(&members, &update).await;
        array.superblock.replace(Some(update));
        if failed.is_empty() {
            let note = |intent: &mut Intent| intent::note_left(intent, gone, known.sequence);
            (failed, _) = intent::update(array, &members, note).await;
        }
        if failed.is_empty() {
            return Ok(());
        }
        gone.extend(failed);
        if !array.survives_without(gone) {
            let message =
                "a failure cannot be recorded on enough members, so the array goes offline";
            return Err(Error::new(errno::EIO, message));
        }
    }
}

/// Adds a bdev to an array. An array that is not online yet takes only a bdev that it waits for; an online array rebuilds
/// the bdev. A failure leaves the array, its slot and the superblocks as before. `[app thread]`
///
/// # Errors
/// `EPERM` during the rebuild of another member, or when the bdev is in use; `EINVAL` when no slot is free or the bdev
/// does not fit; `ENODEV`; `EEXIST` for a bdev with the superblock of another array.
pub(crate) async fn add(app: &App, array: &Rc<Array>, name: &str) -> Result<()> {
    let info = open(app, name, false, |_, _| {})?.info()?;
    let _guard = array.lock.lock("add member").await;
    check_no_rebuild(array)?;
    let Some(number) = free_slot(array, &info) else {
        let message = format!(
            "array {} has no slot for bdev {name}; bdev_raid_grow_base_bdev adds one to a raid1",
            array.name
        );
        return Err(Error::new(errno::EINVAL, message));
    };
    fill_slot(app, array, number, name, &info).await
}

/// # Errors
/// `EPERM` during a rebuild.
pub(crate) fn check_no_rebuild(array: &Array) -> Result<()> {
    if array.rebuild.borrow().is_some() {
        let message = format!("a member of {} is being rebuilt", array.name);
        return Err(Error::new(errno::EPERM, message));
    }
    Ok(())
}

/// Adds a bdev to an empty slot. The caller holds the lock of the array. `[app thread]`
///
/// # Errors
/// As [`add`].
pub(crate) async fn fill_slot(
    app: &App,
    array: &Rc<Array>,
    number: u8,
    name: &str,
    info: &Info,
) -> Result<()> {
    let candidate = array.open_member(app, number, name)?;
    let mut current_below = 0;
    if superblock::is_possible(info)
        && let Some(found) = superblock::read(&candidate.member.io, info).await?
    {
        if found.uuid != array.uuid {
            let message = format!("Superblock of a different raid bdev found on bdev {name}");
            return Err(Error::new(errno::EEXIST, message));
        }
        current_below = intent::current_below(array, number, &candidate, &found);
    }
    if candidate.member.is_gone() {
        return Err(Error::new(errno::ENODEV, format!("bdev {name} is leaving the bus")));
    }
    if array.state.get() == State::Online {
        row_log::clear(array, &candidate.member).await?;
        if candidate.member.is_gone() {
            return Err(Error::new(errno::ENODEV, format!("bdev {name} is leaving the bus")));
        }
    }
    if array.state.get() == State::Configuring {
        array.put(number, candidate, false);
        let started = array.start_if_complete(app).await;
        // Members that are out of date may have waited for the start.
        take_back_soon(app, array);
        return started;
    }
    begin_rebuild(app, array, number, candidate, current_below).await
}

/// The slot that a bdev may fill.
fn free_slot(array: &Array, info: &Info) -> Option<u8> {
    let slots = array.slots.borrow();
    let superblock = array.superblock.borrow();
    let place = match array.state.get() {
        State::Offline => None,
        // The array starts without a rebuild, so it takes only members that it waits for.
        State::Configuring => slots.iter().position(|slot| {
            let is_named = superblock.is_none() && slot.name.as_deref() == Some(info.name());
            let is_it = slot.uuid != [0; 16] && slot.uuid == info.uuid();
            slot.member.is_none() && (is_named || is_it)
        }),
        State::Online => {
            // A member that returns gets its slot of the superblock.
            let entry = superblock.as_ref().and_then(|known| known.member_by_uuid(info.uuid()));
            let own = entry.map(|entry| usize::from(entry.slot));
            let own = own.filter(|own| slots.get(*own).is_some_and(Slot::is_empty));
            own.or_else(|| slots.iter().position(Slot::is_empty))
        }
    };
    place.and_then(|slot| u8::try_from(slot).ok())
}

/// Puts a member that is not current into a slot of an online array, and starts the rebuild. Below the block
/// `current_below`, the member lacks only regions with a mark.
async fn begin_rebuild(
    app: &App,
    array: &Rc<Array>,
    number: u8,
    candidate: Candidate,
    current_below: u64,
) -> Result<()> {
    let member = Rc::clone(&candidate.member);
    if let Some(profile) = &*array.profile.borrow() {
        profile.check_new(&member.info)?;
    }
    let shared = array.shared.borrow().clone();
    let Some(shared) = shared else {
        return Err(Error::new(errno::EINVAL, format!("array {} has no empty slot", array.name)));
    };
    let before = array.superblock.borrow().clone();
    let left = array.intent.borrow().as_ref().and_then(|intent| intent.away(number).copied());
    // The superblock lists the member as missing, so that the array finds and rebuilds it after a restart.
    let update = before.as_ref().map(|known| {
        let entry = known.member(number).copied();
        let entry = spec::Member {
            uuid: member.info.uuid(),
            data_offset: candidate.data_offset,
            data_size: candidate.data_size,
            state: MemberState::Missing,
            flags: entry.map_or(0, |entry| entry.flags),
            slot: number,
        };
        let mut update = array::next(known);
        update.set_member(entry);
        update
    });
    let view = array::view_of(&member, candidate.data_offset, false);
    array.put(number, candidate, true);
    let begun = async {
        let layout = Arc::new(array.layout(&member)?);
        if let Some(update) = update {
            let left_at = update.sequence - 1;
            let away = Away { slot: number, left_at, current_below };
            write_all(array, update, |intent| intent.set_away(away)).await?;
        }
        let join = |views: &mut Views| {
            // A raid1 may have got a slot.
            views.fit(&layout);
            views.set(number, Some(view));
        };
        shared.switch(join).await?;
        start_rebuild(app, array, &shared, &member, current_below)
    };
    let Err(error) = begun.await else { return Ok(()) };
    // Undo all changes: in the lanes, the slot and the superblocks.
    shared.switch(|views| views.set(number, None)).await?;
    empty(array, number, false);
    let known = array.superblock.borrow().clone();
    if let (Some(known), Some(before)) = (known, before) {
        // Other members may have left meanwhile.
        let mut update = array::next(&known);
        match before.member(number) {
            Some(entry) => update.set_member(*entry),
            None => update.remove_last_member(),
        }
        let restore = |intent: &mut Intent| {
            intent.away.retain(|away| away.slot != number);
            left.into_iter().for_each(|left| intent.set_away(left));
        };
        write_all(array, update, restore).await?;
    }
    Err(error)
}

fn start_rebuild(
    app: &App,
    array: &Rc<Array>,
    shared: &Shared,
    member: &Member,
    current_below: u64,
) -> Result<()> {
    if !may_compute(array) {
        warn!(
            "array {}: a crash interrupted writes of stripes; their blocks on bdev {} may hold neither old nor new data after the rebuild",
            array.name,
            member.name()
        );
    }
    // From here on, the member gets every write, so later marks do not matter.
    let regions = array.intent.borrow().as_ref().map(|intent| intent.regions.clone());
    let lacks = Lacks {
        num_blocks: shared.layout().num_blocks(),
        current_below,
        regions: regions.unwrap_or_default(),
        region_shift: shared.marks.as_ref().map_or(0, |marks| marks.region_shift),
    };
    let rebuild = Rc::new(Rebuild::new(member.serial, member.name(), lacks));
    let (run_array, run_rebuild) = (Rc::clone(array), Rc::clone(&rebuild));
    let run = async move |app: &App| rebuild::run(app, &run_array, &run_rebuild).await;
    let task = task::spawn_app(app, format!("raid rebuild {}", array.name), run)?;
    array.rebuild.replace(Some(rebuild));
    task.detach();
    Ok(())
}

/// Writes a superblock to all members, and then the changed write-intent record. Returns the slots on which that failed.
pub(crate) async fn write_superblock(
    array: &Array,
    members: &Slots,
    update: Superblock,
    change: impl FnOnce(&mut Intent),
) -> Vec<u8> {
    let mut failed = superblock::write(members, &update).await;
    array.superblock.replace(Some(update));
    failed.extend(intent::update(array, members, change).await.0);
    failed
}

/// As [`write_superblock`].
///
/// # Errors
/// `EIO` when a member cannot be written.
pub(crate) async fn write_all(
    array: &Array,
    update: Superblock,
    change: impl FnOnce(&mut Intent),
) -> Result<()> {
    let failed = write_superblock(array, &array.members(), update, change).await;
    if failed.is_empty() {
        return Ok(());
    }
    let message =
        format!("array {}: the superblock cannot be written to slots {failed:?}", array.name);
    Err(Error::new(errno::EIO, message))
}

/// Rebuilds a member that left and returned. [`rebuild::run`] calls this again for the next member.
pub(crate) async fn take_back(app: &App, array: &Rc<Array>) {
    while array.state.get() == State::Online
        && !array.is_ending.get()
        && array.rebuild.borrow().is_none()
    {
        let Some(uuid) = array.returning.borrow_mut().pop() else { return };
        let superblock = array.superblock.borrow().clone();
        let entry = superblock.as_ref().and_then(|known| known.member_by_uuid(uuid));
        let is_out = entry.is_some_and(|entry| {
            let is_there = array.members().iter().any(|(slot, _)| *slot == entry.slot);
            entry.state != MemberState::Configured && !is_there
        });
        let name = open(app, &Uuid(uuid).to_string(), false, |_, _| {})
            .and_then(|desc| Ok(desc.info()?.name().to_owned()));
        let (Ok(name), true) = (name, is_out) else { continue };
        if !may_compute(array) {
            warn!(
                "array {}: bdev {name} came back but is not rebuilt: writes to stripes were cut off without it, so their \
                 blocks on it are lost. bdev_raid_add_base_bdev rebuilds it nevertheless",
                array.name
            );
            continue;
        }
        info!("array {}: bdev {name} came back and will be rebuilt", array.name);
        if let Err(error) = add(app, array, &name).await {
            warn!("array {}: bdev {name} came back but cannot be rebuilt: {error}", array.name);
        }
    }
}

/// Whether the others have all data that a member lacks, or parity to compute it.
fn may_compute(array: &Array) -> bool {
    let shared = array.shared.borrow();
    let with_parity = shared.as_ref().filter(|shared| shared.layout().level().parities() > 0);
    with_parity.and_then(|shared| shared.marks.as_ref()).is_none_or(Marks::may_compute_all)
}

/// Runs [`take_back`] in its own task.
pub(crate) fn take_back_soon(app: &App, array: &Rc<Array>) {
    let array = Rc::clone(array);
    let take = async move |app: &App| take_back(app, &array).await;
    if let Ok(task) = task::spawn_app(app, "raid take back", take) {
        task.detach();
    }
}
