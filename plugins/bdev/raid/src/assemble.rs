//! Examines new bdevs: a superblock says which array a bdev belongs to; an array without superblocks waits for names.
//!
//! The plugin examines one bdev at a time, in any order. The superblock with the largest sequence number is the
//! truth. An array starts when all members that this superblock calls configured are on the bus.

use crate::array::{Array, Slot, State};
use crate::member::data_block_size;
use crate::{arrays, intent, members, superblock};
use drivebay_sdk::App;
use drivebay_sdk::bdev::{Examine, Info, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::lock::Lock;
use drivebay_sdk::runtime::{OnApp, task};
use drivebay_spec_raid::{Member, MemberState, Superblock};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Held during an examination.
static ONE_AT_A_TIME: OnApp<Lock> = OnApp::new();

/// A number of examinations. As the number of one examination, it counts those that began until then, including this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Examinations(u64);

static BEGUN: AtomicU64 = AtomicU64::new(0);

impl Examinations {
    /// All examinations that have begun.
    pub(crate) fn begun() -> Self {
        Self(BEGUN.load(Ordering::Relaxed))
    }

    fn begin_one() -> Self {
        Self(BEGUN.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Examines a new bdev in a task. `[app thread]`
pub(crate) fn examine(app: &App, examine: Examine) {
    let number = Examinations::begin_one();
    let look = async move |app: &App| {
        let lock = ONE_AT_A_TIME.get_or_init(Lock::new);
        let Ok(lock) = lock else { return };
        let _guard = lock.lock("examine").await;
        if let Err(error) = look_at(app, examine.name(), number).await {
            warn!("bdev {} cannot join an array: {error}", examine.name());
        }
        drop(examine);
    };
    if let Ok(task) = task::spawn_app(app, "raid examine", look) {
        task.detach();
    }
}

async fn look_at(app: &App, name: &str, number: Examinations) -> Result<()> {
    match find(app, name).await? {
        Some((superblock, info)) => join(app, superblock, &info, number).await,
        None => {
            join_torn(app, name).await?;
            join_by_name(app, name).await
        }
    }
}

/// The superblock on a bdev, if there is one.
async fn find(app: &App, name: &str) -> Result<Option<(Superblock, Info)>> {
    let desc = Arc::new(open(app, name, false, |_, _| {})?);
    let info = desc.info()?;
    if !superblock::is_possible(&info) {
        return Ok(None);
    }
    let io = BlockIo::new(&desc)?;
    let found = superblock::read(&io, &info).await?;
    let Some(superblock) = found else { return Ok(None) };
    if superblock.block_size != data_block_size(&info) {
        let message = format!(
            "its superblock says blocks of {} bytes, but the bdev has blocks of {} bytes",
            superblock.block_size,
            info.block_size()
        );
        return Err(Error::new(errno::EINVAL, message));
    }
    if superblock.uuid == [0; 16] {
        return Err(Error::new(errno::EINVAL, "its superblock has no UUID"));
    }
    Ok(Some((superblock, info)))
}

/// Adds a bdev with a superblock to its array. Creates the array for its first member.
async fn join(app: &App, found: Superblock, info: &Info, number: Examinations) -> Result<()> {
    let array = match arrays::by_uuid(found.uuid) {
        None => arrays::add(Array::from_superblock(found))?,
        Some(array) => {
            let known = array.superblock.borrow().as_ref().map(|known| known.sequence);
            match known {
                None => {
                    let message = format!(
                        "its superblock has the UUID of array {}, which is another array",
                        array.name
                    );
                    return Err(Error::new(errno::EEXIST, message));
                }
                Some(known) if found.sequence > known => replace(app, &array, found).await?,
                Some(_) => array,
            }
        }
    };
    let guard = array.lock.lock("assemble").await;
    let entry = array
        .superblock
        .borrow()
        .as_ref()
        .and_then(|superblock| superblock.member_by_uuid(info.uuid()).copied());
    let Some(entry) = entry else {
        let message =
            format!("the newest superblock of array {} does not list it as a member", array.name);
        return Err(Error::new(errno::EINVAL, message));
    };
    let is_there = array.members().iter().any(|(slot, _)| *slot == entry.slot);
    match (array.state.get(), entry.state) {
        _ if is_there || array.is_ending.get() => Ok(()),
        (State::Configuring, MemberState::Configured) => {
            let candidate = array.open_member(app, entry.slot, info.name())?;
            array.put(entry.slot, candidate, false);
            take_torn(app, &array).await?;
            array.start_if_complete(app).await?;
            drop(guard);
            members::take_back(app, &array).await;
            Ok(())
        }
        // `take_back` rebuilds it once the array is online.
        (State::Configuring, _) => {
            array.returning.borrow_mut().push(info.uuid());
            info!(
                "bdev {} is out of date: array {} waits for its current members",
                info.name(),
                array.name
            );
            Ok(())
        }
        // The member left while its examination waited: the operator removed it, or it failed.
        (State::Online, _) if has_left_since(&array, entry.slot, number) => Ok(()),
        (State::Online, _) => {
            array.returning.borrow_mut().push(info.uuid());
            drop(guard);
            members::take_back(app, &array).await;
            Ok(())
        }
        (State::Offline, _) => Ok(()),
    }
}

/// Whether a member has left a slot since an examination began.
fn has_left_since(array: &Array, slot: u8, number: Examinations) -> bool {
    let slots = array.slots.borrow();
    slots.get(usize::from(slot)).is_some_and(|slot| number <= slot.examined)
}

/// Replaces an array that is not online by the array that a newer superblock describes. Members of the new array are the bdevs
/// found so far that the newer superblock calls configured. The older superblock may have called them out of date: at the end of
/// a rebuild, one member gets the new superblock first.
async fn replace(app: &App, array: &Rc<Array>, found: Superblock) -> Result<Rc<Array>> {
    if array.state.get() != State::Configuring {
        let message = format!(
            "array {} already started with an older superblock; the plugin does not merge arrays that were written separately",
            array.name
        );
        return Err(Error::new(errno::EBUSY, message));
    }
    let mut names: Vec<String> =
        array.members().iter().map(|(_, member)| member.name().to_owned()).collect();
    names.extend(array.returning.take().into_iter().map(|uuid| Uuid(uuid).to_string()));
    let guard = array.lock.lock("assemble").await;
    array.is_ending.set(true);
    arrays::forget(array);
    drop(guard);
    let array = arrays::add(Array::from_superblock(found))?;
    for name in names {
        // A bdev that was found may have left the bus since.
        let Ok(Some((_, info))) = find(app, &name).await else { continue };
        let _guard = array.lock.lock("assemble").await;
        let superblock = array.superblock.borrow().clone();
        let entry = superblock.as_ref().and_then(|known| known.member_by_uuid(info.uuid()));
        let is_current = |entry: &&Member| entry.state == MemberState::Configured;
        if entry.is_some_and(|entry| !is_current(&entry)) {
            array.returning.borrow_mut().push(info.uuid());
        }
        if let Some(entry) = entry.filter(is_current) {
            match array.open_member(app, entry.slot, info.name()) {
                Ok(candidate) => array.put(entry.slot, candidate, false),
                // Go on: the other bdevs may still join.
                Err(error) => warn!("bdev {} cannot join an array: {error}", info.name()),
            }
        }
    }
    Ok(array)
}

/// Starts the array that waits for a bdev whose superblock is torn, if there is one.
async fn join_torn(app: &App, name: &str) -> Result<()> {
    let uuid = open(app, name, false, |_, _| {})?.info()?.uuid();
    let waits = |array: &Rc<Array>| {
        let slots = array.slots.borrow();
        array.has_superblock && slots.iter().any(|slot| slot.member.is_none() && slot.uuid == uuid)
    };
    let waiting = arrays::in_state(Some(State::Configuring)).into_iter().find(waits);
    let Some(array) = waiting.filter(|_| uuid != [0; 16]) else { return Ok(()) };
    let guard = array.lock.lock("assemble").await;
    take_torn(app, &array).await?;
    array.start_if_complete(app).await?;
    drop(guard);
    members::take_back(app, &array).await;
    Ok(())
}

/// Adds members that an array waits for and whose superblocks a power cut has torn. The superblock of an array of five or more
/// members has several blocks. Such a member is current if its write-intent record is not newer than the superblock of the other
/// members: the record follows each change of the superblock, so the torn superblock was not in effect, and the array acknowledged
/// no write after it.
async fn take_torn(app: &App, array: &Rc<Array>) -> Result<()> {
    let known = array.superblock.borrow().as_ref().map(|known| known.sequence);
    let Some(known) = known.filter(|_| array.state.get() == State::Configuring) else {
        return Ok(());
    };
    let waits = |(slot, number): (&Slot, u8)| {
        (slot.member.is_none() && slot.uuid != [0; 16]).then_some((number, slot.uuid))
    };
    let waited: Vec<_> = array.slots.borrow().iter().zip(0..).filter_map(waits).collect();
    for (number, uuid) in waited {
        // Most of these bdevs are not on the bus yet.
        let Ok(candidate) = array.open_member(app, number, &Uuid(uuid).to_string()) else {
            continue;
        };
        let member = &candidate.member;
        if !superblock::is_torn(member).await? {
            continue;
        }
        let name = member.name().to_owned();
        let record = intent::newest_on(member, array.uuid).await;
        if member.is_gone() {
            continue;
        }
        match record {
            Some(record) if record.sequence <= known => {
                info!("array {}: the torn superblock of bdev {name} is replaced", array.name);
                array.put(number, candidate, false);
            }
            _ => warn!(
                "array {}: the superblock of bdev {name} is torn, and no record shows that its data are current",
                array.name
            ),
        }
    }
    Ok(())
}

/// Adds a bdev without a superblock to an array that waits for its name or UUID.
async fn join_by_name(app: &App, name: &str) -> Result<()> {
    let info = open(app, name, false, |_, _| {})?.info()?;
    let mut refusal = None;
    for array in arrays::in_state(Some(State::Configuring)) {
        let _guard = array.lock.lock("assemble").await;
        if array.superblock.borrow().is_some() || array.is_ending.get() {
            continue;
        }
        let waits = {
            let slots = array.slots.borrow();
            let waits = slots.iter().position(|slot| {
                let is_named = slot.name.as_deref() == Some(name);
                let is_it = slot.uuid != [0; 16] && slot.uuid == info.uuid();
                slot.member.is_none() && (is_named || is_it)
            });
            waits.and_then(|slot| u8::try_from(slot).ok())
        };
        if let Some(number) = waits {
            match array.open_member(app, number, name) {
                Ok(candidate) => {
                    array.put(number, candidate, false);
                    return array.start_if_complete(app).await;
                }
                // Another array may wait for the same name.
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
    }
    refusal.map_or(Ok(()), Err)
}
