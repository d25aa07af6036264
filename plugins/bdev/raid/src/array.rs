//! One array on the app thread: its slots, its state, and how it goes online and offline.

use crate::assemble::Examinations;
use crate::intent::{self, Mending};
use crate::member::Member;
use crate::profile::{self, Profile};
use crate::rebuild::{self, Rebuild};
use crate::redundant::Redundant;
use crate::scrub::Scrub;
use crate::shared::{Shared, View};
use crate::striped::Striped;
use crate::superblock::Slots;
use drivebay_sdk::App;
use drivebay_sdk::bdev::{self, Registered};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::lock::Lock;
use drivebay_sdk::runtime::task::oneshot;
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_spec_raid::{
    DATA_OFFSET_MIN, Intent, Layout, Level, LogArea, MemberState, Superblock,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// The state of an array, and whether it is on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The array is on the bus.
    Online,
    /// The array waits for members.
    Configuring,
    /// The array left the bus: it lost too many members, or a call deletes it.
    Offline,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Configuring => "configuring",
            Self::Offline => "offline",
        }
    }
}

/// One place for a member.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) name: Option<String>,
    /// UUID of the slot's member, or of the member that the slot waits for; all zero = neither.
    pub(crate) uuid: [u8; 16],
    /// First block of the array's data on the member.
    pub(crate) data_offset: u64,
    /// Blocks of the array's data on the member; 0 = not known yet.
    pub(crate) data_size: u64,
    pub(crate) member: Option<Rc<Member>>,
    /// Whether the array is rebuilding the member.
    pub(crate) is_target: bool,
    /// The examinations that had begun when the last member left the slot. They do not bring a member back to it.
    pub(crate) examined: Examinations,
}

impl Slot {
    /// Whether the slot neither has a member nor waits for a certain member.
    pub(crate) fn is_empty(&self) -> bool {
        self.member.is_none() && self.name.is_none() && self.uuid == [0; 16]
    }
}

/// A bdev that is open and fits a slot.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) member: Rc<Member>,
    pub(crate) data_offset: u64,
    pub(crate) data_size: u64,
}

/// An array.
#[derive(Debug)]
pub(crate) struct Array {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
    pub(crate) level: Level,
    pub(crate) strip_size_kb: u32,
    pub(crate) has_superblock: bool,
    pub(crate) state: Cell<State>,
    pub(crate) slots: RefCell<Vec<Slot>>,
    /// The superblock on the members; `None` when they have none, or before the first start.
    pub(crate) superblock: RefCell<Option<Superblock>>,
    /// The write-intent record, if the array has one and is online. Whoever writes it holds `intent_lock`.
    pub(crate) intent: RefCell<Option<Intent>>,
    pub(crate) intent_lock: Lock,
    /// Whoever changes the members holds it.
    pub(crate) lock: Lock,
    /// Set while the array is online and redundant.
    pub(crate) shared: RefCell<Option<Arc<Shared>>>,
    pub(crate) profile: RefCell<Option<Profile>>,
    pub(crate) rebuild: RefCell<Option<Rc<Rebuild>>>,
    /// UUIDs of members that left the array, returned, and wait for their rebuild.
    pub(crate) returning: RefCell<Vec<[u8; 16]>>,
    /// The running scrub, or the last one.
    pub(crate) scrub: RefCell<Option<Rc<Scrub>>>,
    pub(crate) is_ending: Cell<bool>,
    /// The last rebuild that succeeded: its member, and the bytes that it copied.
    pub(crate) last_rebuild: RefCell<Option<(String, u64)>>,
    pub(crate) mending: Cell<Mending>,
    /// Whether a task clears marks of the write-intent record.
    pub(crate) is_clearing: Cell<bool>,
    /// Whether a task will try to start the array again.
    pub(crate) is_retrying: Cell<bool>,
}

impl Array {
    pub(crate) fn new(
        name: String,
        uuid: [u8; 16],
        level: Level,
        strip_size_kb: u32,
        has_superblock: bool,
        slots: Vec<Slot>,
    ) -> Self {
        Self {
            name,
            uuid,
            level,
            strip_size_kb,
            has_superblock,
            state: Cell::new(State::Configuring),
            slots: RefCell::new(slots),
            superblock: RefCell::default(),
            intent: RefCell::default(),
            intent_lock: Lock::new(),
            lock: Lock::new(),
            shared: RefCell::default(),
            profile: RefCell::default(),
            rebuild: RefCell::default(),
            returning: RefCell::default(),
            scrub: RefCell::default(),
            is_ending: Cell::new(false),
            last_rebuild: RefCell::default(),
            mending: Cell::default(),
            is_clearing: Cell::new(false),
            is_retrying: Cell::new(false),
        }
    }

    /// The array that a superblock describes. It has no members yet.
    pub(crate) fn from_superblock(superblock: Superblock) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(superblock.num_members.into(), Slot::default);
        for entry in &superblock.members {
            if let Some(slot) = slots.get_mut(usize::from(entry.slot)) {
                if entry.state == MemberState::Configured {
                    slot.uuid = entry.uuid;
                }
                slot.data_offset = entry.data_offset;
                slot.data_size = entry.data_size;
            }
        }
        let strip_bytes = u64::from(superblock.strip_blocks) * u64::from(superblock.block_size);
        let strip_size_kb = u32::try_from(strip_bytes / 1024).unwrap_or(0);
        let name = superblock.name.clone();
        let array = Self::new(name, superblock.uuid, superblock.level, strip_size_kb, true, slots);
        array.superblock.replace(Some(superblock));
        array
    }

    /// The open members and their slots.
    pub(crate) fn members(&self) -> Slots {
        let slots = self.slots.borrow();
        let members = slots.iter().zip(0_u8..);
        members.filter_map(|(slot, number)| Some((number, slot.member.clone()?))).collect()
    }

    /// The slot of the member with this serial number.
    pub(crate) fn slot_of(&self, serial: u64) -> Option<u8> {
        let members = self.members();
        members.iter().find(|(_, member)| member.serial == serial).map(|(slot, _)| *slot)
    }

    /// How many members the array needs to start; after its start, how many members it has.
    pub(crate) fn num_operational(&self) -> usize {
        match (self.state.get(), &*self.superblock.borrow()) {
            (State::Configuring, Some(superblock)) => {
                let states = superblock.members.iter().map(|member| member.state);
                states.filter(|state| *state == MemberState::Configured).count()
            }
            (State::Configuring, None) => {
                self.slots.borrow().iter().filter(|slot| !slot.is_empty()).count()
            }
            _ => self.members().len(),
        }
    }

    /// Whether the other current members hold all data. The members of `gone`, empty slots and targets do not count.
    pub(crate) fn survives_without(&self, gone: &[u8]) -> bool {
        let slots = self.slots.borrow();
        let is_missing = |number: u8| {
            let slot = slots.get(usize::from(number));
            gone.contains(&number)
                || slot.is_none_or(|slot| slot.member.is_none() || slot.is_target)
        };
        self.shared.borrow().as_ref().is_some_and(|shared| shared.layout().survives(is_missing))
    }

    /// Opens and claims a bdev for a slot and checks that it fits. The slot stays as it is until
    /// [`put`](Self::put). `[app thread]`
    ///
    /// # Errors
    /// `ENODEV`; `EPERM` when the bdev is in use; `EINVAL` when it does not fit.
    pub(crate) fn open_member(&self, app: &App, number: u8, name: &str) -> Result<Candidate> {
        let member = Member::open(app, name)?;
        let info = &member.info;
        if let Some((_, other)) = self.members().first() {
            profile::check_format(&self.name, self.has_superblock, info, &other.info)?;
        } else {
            profile::check_format(&self.name, self.has_superblock, info, info)?;
        }
        if info.raw().dif_type != 0 && self.level != Level::Raid0 {
            let message =
                format!("bdev {name} has protection information, which only raid0 supports");
            return Err(Error::new(errno::EINVAL, message));
        }
        if self.level.parities() > 0 && info.raw().md_size != 0 && info.raw().md_interleave == 0 {
            let message =
                format!("bdev {name} has separate metadata, which {} does not support", self.level);
            return Err(Error::new(errno::EINVAL, message));
        }
        let slots = self.slots.borrow();
        let slot = slots.get(usize::from(number)).ok_or_else(Error::no_such_device)?;
        if slot.uuid != [0; 16] && slot.uuid != info.uuid() {
            let message =
                format!("bdev {name} does not have the UUID of the member that the slot waits for");
            return Err(Error::new(errno::EINVAL, message));
        }
        let data_offset = match slot.data_offset {
            0 if self.has_superblock => self.data_offset(&member),
            known => known,
        };
        if let Some(log) = self.log_area(&member)
            && data_offset.saturating_mul(member.data_block_size().into()) < log.end()
        {
            let message =
                format!("data at block {data_offset} of bdev {name} would overlap the row log");
            return Err(Error::new(errno::EINVAL, message));
        }
        let end = data_offset.saturating_add(slot.data_size.max(1));
        if end > info.num_blocks() {
            let message =
                format!("bdev {name} has {} blocks; allowed: at least {end}", info.num_blocks());
            return Err(Error::new(errno::EINVAL, message));
        }
        let data_size = match slot.data_size {
            0 => info.num_blocks() - data_offset,
            known => known,
        };
        Ok(Candidate { member: Rc::new(member), data_offset, data_size })
    }

    /// First data block of a new member: behind superblock and log, at a multiple of the bdev's optimal boundary.
    fn data_offset(&self, member: &Member) -> u64 {
        let first = self.log_area(member).map_or(DATA_OFFSET_MIN, |log| log.end());
        let first = first.div_ceil(member.data_block_size().max(1).into());
        match u64::from(member.info.raw().optimal_boundary) {
            0 => first,
            boundary => first.next_multiple_of(boundary),
        }
    }

    /// Where the row log lies on the members, if the level has one. `member` has the block size.
    pub(crate) fn log_area(&self, member: &Member) -> Option<LogArea> {
        let strip_len = u64::from(self.strip_size_kb) * 1024;
        self.level.has_log().then(|| LogArea::new(strip_len, member.data_block_size()))
    }

    /// Puts a member into a slot. `[app thread]`
    pub(crate) fn put(&self, number: u8, candidate: Candidate, is_target: bool) {
        let Candidate { member, data_offset, data_size } = candidate;
        if let Some(slot) = self.slots.borrow_mut().get_mut(usize::from(number)) {
            *slot = Slot {
                name: Some(member.name().to_owned()),
                uuid: member.info.uuid(),
                data_offset,
                data_size,
                member: Some(member),
                is_target,
                examined: slot.examined,
            };
        }
    }

    /// The layout for the sizes of the slots. The slots get the sizes that the layout uses. `member` has the block size.
    ///
    /// # Errors
    /// `EINVAL` for a strip size or a size of a member that does not fit.
    pub(crate) fn layout(&self, member: &Member) -> Result<Layout> {
        let mut sizes: Vec<u64> = self.slots.borrow().iter().map(|slot| slot.data_size).collect();
        // The size of an empty slot is that of the smallest member.
        let smallest = sizes.iter().copied().filter(|size| *size != 0).min().unwrap_or(0);
        sizes.iter_mut().filter(|size| **size == 0).for_each(|size| *size = smallest);
        let layout = self.layout_of(member, &sizes)?;
        for (slot, number) in self.slots.borrow_mut().iter_mut().zip(0_u8..) {
            slot.data_size = layout.used_blocks(number);
        }
        Ok(layout)
    }

    /// The layout over members with this many data blocks each.
    ///
    /// # Errors
    /// As [`layout`](Self::layout).
    pub(crate) fn layout_of(&self, member: &Member, sizes: &[u64]) -> Result<Layout> {
        let block_size = member.data_block_size().max(1);
        let strip_bytes = u64::from(self.strip_size_kb) * 1024;
        let strip_blocks = u32::try_from(strip_bytes / u64::from(block_size)).unwrap_or(0);
        if strip_blocks == 0 && self.level.has_strips() {
            let allowed = format!("at least the block size, {block_size} bytes");
            return Err(Error::invalid("strip_size_kb", self.strip_size_kb, allowed));
        }
        let layout = Layout::new(self.level, strip_blocks, sizes);
        layout.map_err(|error| Error::new(errno::EINVAL, error.to_string()))
    }

    /// The array on the bus, of a level that can lose members.
    ///
    /// # Errors
    /// `ENODEV` when the array is not online. Another bdev may have its name then.
    pub(crate) fn on_bus(&self) -> Result<Registered<Redundant>> {
        if self.state.get() != State::Online {
            let message = format!("array {} is not online", self.name);
            return Err(Error::new(errno::ENODEV, message));
        }
        bdev::find(&self.name)
    }

    /// Unregisters the array from the bus and waits for the end of that. The caller holds `lock`. `[app thread]`
    pub(crate) async fn take_off(&self, app: &App) {
        if self.state.get() != State::Online {
            return;
        }
        self.state.set(State::Offline);
        // Fail the I/O that waits before waiting for the end of the rebuild, because its window may wait for I/O that a lane holds.
        let shared = self.shared.take();
        if let Some(shared) = &shared {
            shared.go_offline();
        }
        self.stop_rebuild().await;
        let (done, gone) = oneshot::channel();
        let done = move |_: &App, status| drop(done.send(status));
        if let Ok(bdev) = bdev::find::<Striped>(&self.name) {
            bdev.unregister(app, done);
        } else if let Ok(bdev) = bdev::find::<Redundant>(&self.name) {
            bdev.unregister(app, done);
        } else {
            return;
        }
        if !matches!(gone.await, Ok(Ok(()))) {
            warn!("array {} left the bus with an error", self.name);
        }
        if let Some(shared) = &shared {
            intent::close(self, shared).await;
        }
    }

    /// Stops the rebuild, if there is one, and waits until it has ended.
    pub(crate) async fn stop_rebuild(&self) {
        let rebuild = self.rebuild.borrow().clone();
        if let Some(rebuild) = rebuild {
            rebuild.stop().await;
        }
    }

    /// The rebuild that runs or is about to begin. A rebuild is shown before its first copy, so that no client thinks that the member is
    /// current.
    fn show_process(&self) -> Option<Value> {
        if let Some(rebuild) = &*self.rebuild.borrow() {
            return Some(rebuild.show());
        }
        let slots = self.slots.borrow();
        let target = slots.iter().find(|slot| slot.is_target)?.name.as_deref()?;
        Some(rebuild::show(target, 0, 0))
    }

    /// The fields that the reference shows of an array.
    pub(crate) fn show(&self) -> Map<String, Value> {
        let uuid = |uuid| Value::from(Uuid(uuid).to_string());
        let mut shown = Map::new();
        let mut put = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
        put("uuid", uuid(self.uuid));
        put("strip_size_kb", self.strip_size_kb.into());
        put("state", self.state.get().name().into());
        put("raid_level", self.level.name().into());
        put("superblock", self.has_superblock.into());
        put("num_base_bdevs", self.slots.borrow().len().into());
        put("num_base_bdevs_discovered", self.members().len().into());
        put("num_base_bdevs_operational", self.num_operational().into());
        if let Some(process) = self.show_process() {
            put("process", process);
        }
        if let Some((target, bytes)) = &*self.last_rebuild.borrow() {
            put("last_rebuild", json!({"target": target, "copied_bytes": bytes}));
        }
        if let Some(scrub) = &*self.scrub.borrow() {
            put("scrub", scrub.show());
        }
        let slots = self.slots.borrow();
        let members = slots.iter().map(|slot| {
            json!({
                "name": slot.name,
                "uuid": uuid(slot.uuid),
                "is_configured": slot.member.is_some(),
                "data_offset": slot.data_offset,
                "data_size": slot.data_size,
            })
        });
        put("base_bdevs_list", members.collect::<Vec<_>>().into());
        shown
    }
}

/// A copy of a superblock with the next sequence number.
pub(crate) fn next(superblock: &Superblock) -> Superblock {
    Superblock { sequence: superblock.sequence.saturating_add(1), ..superblock.clone() }
}

/// The properties of a member that channels need.
pub(crate) fn view_of(member: &Member, offset: u64, is_readable: bool) -> View {
    let is_cached = member.info.has_write_cache();
    View { serial: member.serial, desc: Arc::clone(&member.desc), offset, is_readable, is_cached }
}
