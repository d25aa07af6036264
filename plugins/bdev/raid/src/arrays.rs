//! All arrays of the process, on the app thread.

use crate::array::{Array, Slot, State};
use crate::superblock;
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{OnApp, task};
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_sdk::{App, Stopping};
use drivebay_spec_raid::{Level, MEMBERS_MAX, NAME_LEN};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

static ARRAYS: OnApp<RefCell<Vec<Rc<Array>>>> = OnApp::new();
static OPTIONS: OnApp<Cell<Options>> = OnApp::new();

/// How rebuilding goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// KiB of the array that are held back and copied at a time.
    pub(crate) window_kb: u32,
    /// MiB a second; 0 = no limit.
    pub(crate) bandwidth_mb: u32,
}

/// The options now. `[app thread]`
pub(crate) fn options() -> Options {
    OPTIONS.get().map_or(Options { window_kb: 1024, bandwidth_mb: 0 }, |options| options.get())
}

/// Sets the options of rebuilds that begin later.
///
/// # Errors
/// `EINVAL` for a window of 0.
pub(crate) fn set_options(options: Options) -> Result<()> {
    if options.window_kb == 0 {
        return Err(Error::invalid("process_window_size_kb", 0, "at least 1"));
    }
    OPTIONS.get_or_init(|| Cell::new(options))?.set(options);
    Ok(())
}

/// All arrays, the oldest first. `[app thread]`
pub(crate) fn all() -> Vec<Rc<Array>> {
    ARRAYS.get().map(|arrays| arrays.borrow().clone()).unwrap_or_default()
}

/// The array with that name.
pub(crate) fn by_name(name: &str) -> Option<Rc<Array>> {
    all().into_iter().find(|array| array.name == name)
}

/// The array with that UUID.
pub(crate) fn by_uuid(uuid: [u8; 16]) -> Option<Rc<Array>> {
    all().into_iter().find(|array| array.uuid == uuid)
}

/// Adds an array.
///
/// # Errors
/// `EEXIST` when there is one of that name.
pub(crate) fn add(array: Array) -> Result<Rc<Array>> {
    if by_name(&array.name).is_some() {
        let message = format!("there is an array named {}", array.name);
        return Err(Error::new(errno::EEXIST, message));
    }
    let array = Rc::new(array);
    ARRAYS.get_or_init(RefCell::default)?.borrow_mut().push(Rc::clone(&array));
    Ok(array)
}

/// Forgets an array, which lets go of its members.
pub(crate) fn forget(array: &Rc<Array>) {
    if let Some(arrays) = ARRAYS.get() {
        arrays.borrow_mut().retain(|other| !Rc::ptr_eq(other, array));
    }
    array.slots.borrow_mut().clear();
}

/// What an array is made of.
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
                return Err(Error::invalid("strip_size_kb", given, "0, as raid1 has no strips"));
            }
            (true, given) if !given.is_power_of_two() => {
                return Err(Error::invalid("strip_size_kb", given, "a power of two"));
            }
            (true, _) => {}
        }
        if self.level.parities() > 0 {
            let allowed = "raid0, raid1, raid10, concat";
            return Err(Error::invalid("raid_level", self.level, allowed));
        }
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

/// Makes an array. It comes online when all of its members are there, now or later. `[app thread]`
///
/// # Errors
/// `EINVAL`; `EEXIST` for a name in use, and for a member of another array; `EPERM` for a bdev in use; or how
/// writing a superblock failed. Nothing is left of the array then.
pub(crate) async fn create(app: &App, new: NewArray) -> Result<()> {
    new.check()?;
    let uuid = new.uuid.map_or_else(new_uuid, Ok)?;
    if by_uuid(uuid).is_some() {
        return Err(Error::new(
            errno::EEXIST,
            format!("there is an array with UUID {}", Uuid(uuid)),
        ));
    }
    let slot = |name: &String| Slot { name: Some(name.clone()), ..Slot::default() };
    let slots = new.base_bdevs.iter().map(slot).collect();
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

/// Opens the members that are there already, and starts the array if those are all.
async fn fill(app: &App, array: &Rc<Array>, names: &[String]) -> Result<()> {
    for (name, number) in names.iter().zip(0_u8..) {
        let member = match array.open_member(app, number, name) {
            Ok(member) => member,
            Err(error) if error.errno() == errno::ENODEV => continue,
            Err(error) => return Err(error),
        };
        if superblock::is_possible(&member.info)
            && superblock::read(&member.io, &member.info).await?.is_some()
        {
            let message = format!("Superblock of a different raid bdev found on bdev {name}");
            return Err(Error::new(errno::EEXIST, message));
        }
        if let Some(slot) = array.slots.borrow_mut().get_mut(usize::from(number)) {
            slot.member = Some(member);
        }
    }
    array.start_if_complete(app).await
}

/// Deletes an array, and its superblocks with it if that is asked for. `[app thread]`
///
/// # Errors
/// `EALREADY` when it is being deleted.
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
    }
    forget(array);
    Ok(())
}

/// Writes the calls that make again what no superblock says.
pub(crate) fn save(config: &mut Config<'_>) {
    let Options { window_kb, bandwidth_mb } = options();
    config.call(
        "bdev_raid_set_options",
        &json!({"process_window_size_kb": window_kb, "process_max_bandwidth_mb_sec": bandwidth_mb}),
    );
    for array in all().iter().filter(|array| !array.has_superblock && !array.is_ending.get()) {
        let slots = array.slots.borrow();
        let name_of = |(number, slot): (usize, &Slot)| {
            slot.name.clone().unwrap_or_else(|| format!("removed_base_bdev_{number}"))
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

/// What `bdev_get_bdevs` shows of an array.
pub(crate) fn driver_specific(name: &str) -> Map<String, Value> {
    let shown = by_name(name).map(|array| ("raid".to_owned(), array.show().into()));
    shown.into_iter().collect()
}

/// Takes all arrays off the bus, then lets the plugin end.
pub(crate) fn close_all(app: &App, stopping: Stopping) {
    let close = async move |app: &App| {
        for array in all() {
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

/// The arrays in a state, or all.
pub(crate) fn in_state(state: Option<State>) -> Vec<Rc<Array>> {
    all().into_iter().filter(|array| state.is_none_or(|state| array.state.get() == state)).collect()
}

/// A new UUID from the kernel.
fn new_uuid() -> Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().parse::<Uuid>()?.0)
}
