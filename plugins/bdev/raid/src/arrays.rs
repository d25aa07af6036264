//! All arrays of the process, on the app thread.

use crate::array::{Array, Slot, State};
use crate::shared::Shared;
use crate::{intent, profile, superblock};
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{OnApp, task};
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_sdk::{App, Stopping};
use drivebay_spec_raid::{Level, MEMBERS_MAX, NAME_LEN};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

static ARRAYS: OnApp<RefCell<Vec<Rc<Array>>>> = OnApp::new();
static OPTIONS: OnApp<Cell<Options>> = OnApp::new();

/// Options of rebuilds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// KiB of the array that a rebuild copies at a time. I/O to these blocks waits meanwhile.
    pub(crate) window_kb: u32,
    /// MiB per second that a rebuild may copy; 0 = no limit.
    pub(crate) bandwidth_mb: u32,
}

/// Size of the largest window of a rebuild, in KiB.
const WINDOW_KB_MAX: u32 = 64 << 10;

/// The current options. `[app thread]`
pub(crate) fn options() -> Options {
    OPTIONS.get().map_or(Options { window_kb: 1024, bandwidth_mb: 0 }, |options| options.get())
}

/// Sets the options of all rebuilds that begin from now on.
///
/// # Errors
/// `EINVAL` for a window of 0 or of more than 64 MiB: I/O to the window waits.
pub(crate) fn set_options(options: Options) -> Result<()> {
    if !(1..=WINDOW_KB_MAX).contains(&options.window_kb) {
        let allowed = format!("1 to {WINDOW_KB_MAX}");
        return Err(Error::invalid("process_window_size_kb", options.window_kb, allowed));
    }
    OPTIONS.get_or_init(|| Cell::new(options))?.set(options);
    Ok(())
}

/// All arrays, the oldest first. `[app thread]`
pub(crate) fn all() -> Vec<Rc<Array>> {
    ARRAYS.get().map(|arrays| arrays.borrow().clone()).unwrap_or_default()
}

/// The array with this name.
pub(crate) fn by_name(name: &str) -> Option<Rc<Array>> {
    all().into_iter().find(|array| array.name == name)
}

/// The array with this UUID.
pub(crate) fn by_uuid(uuid: [u8; 16]) -> Option<Rc<Array>> {
    all().into_iter().find(|array| array.uuid == uuid)
}

/// The array whose channels share `shared`, while it is online.
pub(crate) fn of_shared(shared: &Arc<Shared>) -> Option<Rc<Array>> {
    by_uuid(shared.uuid)
        .filter(|array| array.shared.borrow().as_ref().is_some_and(|it| Arc::ptr_eq(it, shared)))
}

/// Adds an array.
///
/// # Errors
/// `EEXIST` when there is an array with the same name.
pub(crate) fn add(array: Array) -> Result<Rc<Array>> {
    if by_name(&array.name).is_some() {
        let message = format!("there is an array named {}", array.name);
        return Err(Error::new(errno::EEXIST, message));
    }
    let array = Rc::new(array);
    ARRAYS.get_or_init(RefCell::default)?.borrow_mut().push(Rc::clone(&array));
    Ok(array)
}

/// Removes an array from the list and releases its members.
pub(crate) fn forget(array: &Rc<Array>) {
    if let Some(arrays) = ARRAYS.get() {
        arrays.borrow_mut().retain(|other| !Rc::ptr_eq(other, array));
    }
    array.slots.borrow_mut().clear();
}

/// Parameters of a new array.
#[derive(Debug)]
pub(crate) struct NewArray {
    pub(crate) name: String,
    pub(crate) uuid: Option<[u8; 16]>,
    pub(crate) level: Level,
    pub(crate) strip_size_kb: u32,
    pub(crate) has_superblock: bool,
    pub(crate) base_bdevs: Vec<String>,
}

impl NewArray {
    fn check(&self) -> Result<()> {
        if !(1..NAME_LEN).contains(&self.name.len()) {
            let allowed = format!("1 to {} bytes", NAME_LEN - 1);
            return Err(Error::invalid("name", &self.name, allowed));
        }
        match (self.level.has_strips(), self.strip_size_kb) {
            (false, 0) => {}
            (false, given) => {
                return Err(Error::invalid(
                    "strip_size_kb",
                    given,
                    "0, because raid1 has no strips",
                ));
            }
            (true, given) if !given.is_power_of_two() => {
                return Err(Error::invalid("strip_size_kb", given, "a power of two"));
            }
            (true, _) => {}
        }
        if self.level.has_log() && !self.has_superblock {
            let allowed = format!("true for {}, which has a log beside the superblock", self.level);
            return Err(Error::invalid("superblock", "false", allowed));
        }
        profile::check_strip(self.level, u64::from(self.strip_size_kb) * 1024)?;
        let (given, least) = (self.base_bdevs.len(), self.level.members_min());
        if !(usize::from(least)..=MEMBERS_MAX).contains(&given) {
            let allowed = format!("{least} to {MEMBERS_MAX} for {}", self.level);
            return Err(Error::invalid("number of base_bdevs", given, allowed));
        }
        if self.base_bdevs.iter().any(String::is_empty) {
            return Err(Error::new(errno::EINVAL, "The base bdev name cannot be empty"));
        }
        Ok(())
    }
}

/// The name that stands for an empty slot in the configuration of an array without a superblock. The reference saves
/// the same name.
fn name_of_empty(slot: usize) -> String {
    format!("removed_base_bdev_{slot}")
}

/// Creates an array. It goes online as soon as all of its members exist. `[app thread]`
///
/// # Errors
/// `EINVAL`; `EEXIST` for a name or UUID in use, and for a bdev with the superblock of an array; `EPERM` for a bdev
/// in use; or why a superblock could not be written. Then there is no array.
pub(crate) async fn create(app: &App, new: NewArray) -> Result<()> {
    new.check()?;
    let uuid = new.uuid.map_or_else(new_uuid, Ok)?;
    if by_uuid(uuid).is_some() {
        return Err(Error::new(
            errno::EEXIST,
            format!("there is an array with UUID {}", Uuid(uuid)),
        ));
    }
    let slots = (0..).zip(&new.base_bdevs).map(|(number, name)| {
        // An array with superblocks does not need this name: they list the missing members.
        let is_empty = !new.has_superblock && *name == name_of_empty(number);
        Slot { name: (!is_empty).then(|| name.clone()), ..Slot::default() }
    });
    let slots = slots.collect();
    let array = Array::new(new.name, uuid, new.level, new.strip_size_kb, new.has_superblock, slots);
    let array = add(array)?;
    let _guard = array.lock.lock("create").await;
    let made = fill(app, &array, &new.base_bdevs).await;
    if made.is_err() {
        array.is_ending.set(true);
        forget(&array);
    }
    made
}

/// Opens the members that are on the bus, and starts the array if all of them are.
async fn fill(app: &App, array: &Rc<Array>, names: &[String]) -> Result<()> {
    for (name, number) in names.iter().zip(0_u8..) {
        if array.slots.borrow().get(usize::from(number)).is_some_and(Slot::is_empty) {
            continue;
        }
        let candidate = match array.open_member(app, number, name) {
            Ok(candidate) => candidate,
            Err(error) if error.errno() == errno::ENODEV => continue,
            Err(error) => return Err(error),
        };
        let member = &candidate.member;
        if superblock::is_possible(&member.info)
            && superblock::read(&member.io, &member.info).await?.is_some()
        {
            let message = format!("Superblock of a different raid bdev found on bdev {name}");
            return Err(Error::new(errno::EEXIST, message));
        }
        if member.is_gone() {
            continue;
        }
        array.put(number, candidate, false);
    }
    array.start_if_complete(app).await
}

/// Deletes an array. With `clears_superblock`, zeros its superblocks, too. `[app thread]`
///
/// # Errors
/// `EALREADY` when another call deletes it.
pub(crate) async fn delete(app: &App, array: &Rc<Array>, clears_superblock: bool) -> Result<()> {
    const EALREADY: i32 = 114;
    if array.is_ending.replace(true) {
        return Err(Error::new(EALREADY, "Operation already in progress"));
    }
    let _guard = array.lock.lock("delete").await;
    array.take_off(app).await;
    let superblock = array.superblock.borrow().clone();
    if let Some(superblock) = superblock.filter(|_| clears_superblock) {
        superblock::clear(&array.members(), &superblock).await;
        intent::erase(array).await;
    }
    forget(array);
    Ok(())
}

/// Saves the options, and the arrays without a superblock. `assemble` finds the others by their superblocks.
pub(crate) fn save(config: &mut Config<'_>) {
    let Options { window_kb, bandwidth_mb } = options();
    config.call(
        "bdev_raid_set_options",
        &json!({"process_window_size_kb": window_kb, "process_max_bandwidth_mb_sec": bandwidth_mb}),
    );
    for array in all().iter().filter(|array| !array.has_superblock && !array.is_ending.get()) {
        let slots = array.slots.borrow();
        let name_of = |(number, slot): (usize, &Slot)| {
            slot.name.clone().unwrap_or_else(|| name_of_empty(number))
        };
        let names: Vec<String> = slots.iter().enumerate().map(name_of).collect();
        let mut call = Map::new();
        call.insert("name".into(), array.name.as_str().into());
        call.insert("uuid".into(), Uuid(array.uuid).to_string().into());
        if array.strip_size_kb != 0 {
            call.insert("strip_size_kb".into(), array.strip_size_kb.into());
        }
        call.insert("raid_level".into(), array.level.name().into());
        call.insert("base_bdevs".into(), names.into());
        config.call("bdev_raid_create", &call);
    }
}

/// The fields that `bdev_get_bdevs` shows of an array.
pub(crate) fn driver_specific(name: &str) -> Map<String, Value> {
    let shown = by_name(name).map(|array| ("raid".to_owned(), array.show().into()));
    shown.into_iter().collect()
}

/// Unregisters all arrays from the bus. The plugin ends after that.
pub(crate) fn close_all(app: &App, stopping: Stopping) {
    let close = async move |app: &App| {
        // The newest first: an array may be a member of a newer one, which must not record that as the loss of a member.
        for array in all().into_iter().rev() {
            array.is_ending.set(true);
            let _guard = array.lock.lock("stop").await;
            array.take_off(app).await;
            forget(&array);
        }
        drop(stopping);
    };
    if let Ok(task) = task::spawn_app(app, "raid stop", close) {
        task.detach();
    }
}

/// The arrays in this state; `None` = all arrays.
pub(crate) fn in_state(state: Option<State>) -> Vec<Rc<Array>> {
    all().into_iter().filter(|array| state.is_none_or(|state| array.state.get() == state)).collect()
}

/// A new UUID from the kernel.
fn new_uuid() -> Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().parse::<Uuid>()?.0)
}
