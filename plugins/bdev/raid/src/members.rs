//! Changes of the members: they fail, leave, are added and come back.
//!
//! A write that failed on a member waits in its lane. [`retire`] records the failure in the superblocks of the
//! remaining members and flushes them. Only then the channels go on without the member.

use crate::array::{self, Array, State};
use crate::rebuild::{self, Rebuild};
use crate::{arrays, superblock};
use drivebay_sdk::App;
use drivebay_sdk::bdev::open;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{MemberState, Superblock};
use std::rc::Rc;

/// Takes out a member on which a write, flush or unmap failed. `[any thread]`
pub(crate) fn report_failure(uuid: [u8; 16], serial: u64, status: Status) {
    let retire = async move |app: &App| {
        let Some(array) = arrays::by_uuid(uuid) else { return };
        let is_gone = status == Status::errno(errno::ENODEV);
        let state = if is_gone { MemberState::Missing } else { MemberState::Failed };
        if let Err(error) = retire(app, &array, serial, state).await {
            error!("array {}: {error}", array.name);
        }
    };
    if let Err(error) =
        task::spawn_on_app("raid member failed", retire).map(task::JoinHandle::detach)
    {
        error!("a failed member cannot be taken out of its array: {error}");
    }
}

/// Repairs blocks that a member could not read, with the data of another copy. `[reactor]`
pub(crate) fn report_bad_blocks(uuid: [u8; 16], serial: u64, blocks: Range) {
    let repair = async move |app: &App| {
        let Some(array) = arrays::by_uuid(uuid) else { return };
        if let Err(error) = rebuild::repair(app, &array, serial, blocks).await {
            warn!("array {}: {error}", array.name);
        }
    };
    // If no task can be spawned, the next read of the blocks repairs them.
    if let Ok(task) = task::spawn_on_app("raid repair", repair) {
        task.detach();
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

/// Takes a member out: records that first, then changes the data path. An array that needs the member goes offline.
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
    let _guard = array.lock.lock("remove member").await;
    let Some(number) = array.slot_of(serial) else { return Ok(()) };
    if array.state.get() != State::Online {
        let keeps = array.has_superblock;
        empty(array, number, array.state.get() == State::Configuring, keeps);
        return Ok(());
    }
    let mut gone = vec![number];
    if !array.survives_without(&gone) && as_state == MemberState::Failed {
        // Another member failed at the same time. The I/O that waits is sent again and ends with its own error.
        let shared = array.shared.borrow().clone();
        return match shared {
            Some(shared) => shared.switch(|_| {}).await,
            None => Ok(()),
        };
    }
    if !array.survives_without(&gone) {
        warn!("array {} goes offline: it needs the member of slot {number}", array.name);
        array.take_off(app).await;
        empty(array, number, false, false);
        return Ok(());
    }
    info!("array {}: the member of slot {number} is taken out", array.name);
    if let Err(error) = record(array, &mut gone, as_state).await {
        array.take_off(app).await;
        empty(array, number, false, false);
        return Err(error);
    }
    let shared = array.shared.borrow().clone();
    if let Some(shared) = shared {
        let leave = |views: &mut crate::shared::Views| {
            for number in &gone {
                if let Some(view) = views.get_mut(usize::from(*number)) {
                    *view = None;
                }
            }
        };
        shared.switch(leave).await?;
    }
    for number in gone {
        empty(array, number, false, false);
    }
    Ok(())
}

/// Empties a slot. With `waits`, the slot still waits for the same member.
fn empty(array: &Array, number: u8, waits: bool, forgets_name: bool) {
    let member = {
        let mut slots = array.slots.borrow_mut();
        let Some(slot) = slots.get_mut(usize::from(number)) else { return };
        slot.is_target = false;
        if !waits || forgets_name {
            slot.name = None;
        }
        if !waits {
            slot.uuid = [0; 16];
            // The next member gets its own offset.
            slot.data_offset = 0;
        }
        slot.member.take()
    };
    if let (Some(rebuild), Some(member)) = (&*array.rebuild.borrow(), &member)
        && rebuild.serial == member.serial
    {
        rebuild.ask_to_stop();
    }
    drop(member);
}

/// Records on the other members that the members of `gone` are out. Adds to `gone` each member on which that
/// fails.
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
        let failed = superblock::write(&members, &update).await;
        array.superblock.replace(Some(update));
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

/// Adds a bdev to an array. An array that is not online yet takes it as it is; an online one rebuilds it.
/// `[app thread]`
///
/// # Errors
/// `EPERM` during the rebuild of another member, or when the bdev is in use; `EINVAL` when no slot is free or the bdev
/// does not fit; `ENODEV`; `EEXIST` for a bdev with the superblock of another array.
pub(crate) async fn add(app: &App, array: &Rc<Array>, name: &str) -> Result<()> {
    let info = open(app, name, false, |_, _| {})?.info()?;
    let guard = array.lock.lock("add member").await;
    if array.rebuild.borrow().is_some() {
        return Err(Error::new(
            errno::EPERM,
            format!("a member of {} is being rebuilt", array.name),
        ));
    }
    let is_configuring = array.state.get() == State::Configuring;
    let number = {
        let slots = array.slots.borrow();
        let waits = slots
            .iter()
            .position(|slot| is_configuring && slot.member.is_none() && slot.uuid == info.uuid());
        let is_empty = |slot: &array::Slot| slot.member.is_none() && slot.uuid == [0; 16];
        // A member that comes back gets the slot that the superblock still lists it for.
        let superblock = array.superblock.borrow();
        let entry = superblock.as_ref().and_then(|known| known.member_by_uuid(info.uuid()));
        let own = entry.map(|entry| usize::from(entry.slot));
        let own = own.filter(|own| slots.get(*own).is_some_and(is_empty));
        let place = if is_configuring && superblock.is_some() {
            // A member with old data or none must not start the array.
            waits
        } else {
            waits.or(own).or_else(|| slots.iter().position(is_empty))
        };
        place.and_then(|slot| u8::try_from(slot).ok())
    };
    let Some(number) = number.filter(|_| array.state.get() != State::Offline) else {
        let message = format!("array {} has no slot for bdev {name}", array.name);
        return Err(Error::new(errno::EINVAL, message));
    };
    let member = array.open_member(app, number, name);
    let found = match &member {
        Ok(member) if superblock::is_possible(&info) => superblock::read(&member.io, &info).await,
        _ => Ok(None),
    };
    let result = match (member, found) {
        (Err(error), _) | (_, Err(error)) => Err(error),
        (_, Ok(Some(found))) if found.uuid != array.uuid => {
            let message = format!("Superblock of a different raid bdev found on bdev {name}");
            Err(Error::new(errno::EEXIST, message))
        }
        (Ok(member), Ok(_)) if is_configuring => {
            put(array, number, member, false);
            return array.start_if_complete(app).await;
        }
        (Ok(member), Ok(_)) => begin_rebuild(app, array, number, member).await,
    };
    if result.is_err() {
        empty(array, number, is_configuring, array.has_superblock);
    }
    drop(guard);
    result
}

fn put(array: &Array, number: u8, member: Rc<crate::member::Member>, is_target: bool) {
    if let Some(slot) = array.slots.borrow_mut().get_mut(usize::from(number)) {
        slot.member = Some(member);
        slot.is_target = is_target;
    }
}

/// Puts a member without data into a slot of an online array, and starts the rebuild.
async fn begin_rebuild(
    app: &App,
    array: &Rc<Array>,
    number: u8,
    member: Rc<crate::member::Member>,
) -> Result<()> {
    if let Some(profile) = &*array.profile.borrow() {
        profile.check_new(&member.info)?;
    }
    let shared = array.shared.borrow().clone();
    let Some(shared) = shared else {
        return Err(Error::new(errno::EINVAL, format!("array {} has no empty slot", array.name)));
    };
    let (offset, size) = {
        let slots = array.slots.borrow();
        slots.get(usize::from(number)).map_or((0, 0), |slot| (slot.data_offset, slot.data_size))
    };
    // The superblock lists the member as missing, so that it is found and rebuilt after a restart.
    let update = array.superblock.borrow().as_ref().map(|known| {
        let mut update = array::next(known);
        for entry in update.members.iter_mut().filter(|entry| entry.slot == number) {
            entry.uuid = member.info.uuid();
            (entry.data_offset, entry.data_size) = (offset, size);
            entry.state = MemberState::Missing;
        }
        update
    });
    put(array, number, Rc::clone(&member), true);
    if let Some(update) = update {
        write_all(array, update).await?;
    }
    let view = array::view_of(&member, offset, false);
    let serial = view.serial;
    let enter = move |views: &mut crate::shared::Views| {
        if let Some(place) = views.get_mut(usize::from(number)) {
            *place = Some(view);
        }
    };
    let leave = |views: &mut crate::shared::Views| {
        if let Some(place) = views.get_mut(usize::from(number)) {
            *place = None;
        }
    };
    if let Err(error) = shared.switch(enter).await {
        shared.switch(leave).await?;
        return Err(error);
    }
    let rebuild = Rc::new(Rebuild::new(serial, member.name(), shared.layout.num_blocks()));
    array.rebuild.replace(Some(Rc::clone(&rebuild)));
    let (run_array, run_rebuild) = (Rc::clone(array), Rc::clone(&rebuild));
    let run = async move |app: &App| rebuild::run(app, &run_array, &run_rebuild).await;
    match task::spawn_app(app, format!("raid rebuild {}", array.name), run) {
        Ok(task) => task.detach(),
        Err(error) => {
            array.rebuild.replace(None);
            shared.switch(leave).await?;
            return Err(error);
        }
    }
    Ok(())
}

/// Writes a superblock to all members.
pub(crate) async fn write_all(array: &Array, update: Superblock) -> Result<()> {
    let failed = superblock::write(&array.members(), &update).await;
    array.superblock.replace(Some(update));
    if failed.is_empty() {
        return Ok(());
    }
    let message =
        format!("array {}: the superblock cannot be written to slots {failed:?}", array.name);
    Err(Error::new(errno::EIO, message))
}

/// Rebuilds a member that left and came back. [`rebuild::run`] calls this again for the next one.
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
        info!("array {}: bdev {name} came back and will be rebuilt", array.name);
        if let Err(error) = add(app, array, &name).await {
            warn!("array {}: bdev {name} came back but cannot be rebuilt: {error}", array.name);
        }
    }
}

/// Runs [`take_back`] in its own task.
pub(crate) fn take_back_soon(app: &App, array: &Rc<Array>) {
    let array = Rc::clone(array);
    let take = async move |app: &App| take_back(app, &array).await;
    if let Ok(task) = task::spawn_app(app, "raid take back", take) {
        task.detach();
    }
}
