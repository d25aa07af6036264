//! A bdev on the bus: registration, names, limits, resize and removal.

use super::claim::Claims;
use super::desc;
use super::examine;
use super::failed;
use super::quiesce::Range;
use super::refused;
use super::stats::Totals;
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A registered bdev. It lives as long as a descriptor, a channel or the bus references it.
pub struct Bdev {
    /// Handle.
    pub id: u64,
    /// Unique name.
    pub name: String,
    /// Product name.
    pub product: String,
    /// UUID.
    pub uuid: [u8; 16],
    /// Name of the base bdev of a filter.
    pub base: Option<String>,
    /// The address of the host table of the plugin that registered it.
    pub owner: usize,
    /// What the module declared. The pointers in it are dangling: the bus has copied the texts.
    pub record: bay_bdev_reg,
    pub(super) ops: bay_bdev_ops,
    pub(super) ctx: *mut c_void,
    num_blocks: AtomicU64,
    /// The block number below which the last block of an I/O must be: `num_blocks`, or 0 once the
    /// removal has begun.
    reach: AtomicU64,
    removed: AtomicBool,
    resetting: AtomicBool,
    has_failed: AtomicBool,
    /// The number of I/Os of its failed module, on all channels, that cannot complete yet.
    pub(super) quarantined: AtomicU32,
    /// Whether the log has already reported that the module completes I/O on wrong threads.
    pub(super) is_told_elsewhere: AtomicBool,
    pub(super) channels: AtomicU32,
    pub(super) retired: Totals,
    pub(super) control: Mutex<Control>,
}

/// The state that only the control path uses.
#[derive(Default)]
pub(super) struct Control {
    pub(super) aliases: Vec<String>,
    pub(super) descs: Vec<u64>,
    pub(super) claims: Claims,
    pub(super) quiesced: Vec<Range>,
    removal: Option<Done>,
    destructing: bool,
}

type Done = Box<dyn FnOnce(i32) + Send>;

/// The longest JSON text that a module may write about one bdev, in bytes.
pub(super) const JSON_MAX: usize = 1 << 20;

// SAFETY: `ctx` is only passed to the module's functions, on the threads that the ABI names. All
// other fields are atomic, immutable or behind a mutex.
unsafe impl Send for Bdev {}
// SAFETY: as above.
unsafe impl Sync for Bdev {}

/// The size of a bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per block.
    pub block_size: u32,
    /// Capacity in blocks.
    pub num_blocks: u64,
}

/// The space of a pool, in blocks of a bdev that takes its space from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of the pool; 0 = there is no pool, or its size is unknown.
    pub total: u64,
    /// The free part of it.
    pub free: u64,
}

/// The limits that the data path needs, copied into each channel.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    ops: u64,
    ops_allowed: u64,
    pub(super) must_allowed: u32,
    pub(super) block_size: u32,
    /// Bytes of separate metadata for each block; 0 = none.
    pub(super) md_size: u32,
    pub(super) align: u32,
    pub(super) write_unit: u32,
    pub(super) optimal_boundary: u32,
    pub(super) max_segments: u32,
    pub(super) max_segment_size: u32,
    pub(super) max_io_blocks: u32,
    pub(super) max_unmap: u32,
    pub(super) max_write_zeroes: u32,
    pub(super) split_data: bool,
    pub(super) fua_declared: bool,
    pub(super) write_cache: bool,
    pub(super) read_only: bool,
    pub(super) straight: Straight,
}

/// A read or write within these limits needs no further checks.
#[derive(Clone, Copy)]
pub(super) struct Straight {
    /// Whether writes may take the straight path, as reads do.
    pub(super) writes: bool,
    /// The maximum number of blocks that the module takes in one piece of memory; 0 = all I/O needs
    /// the full checks.
    pub(super) most_blocks: u64,
    /// A power of two, in blocks. No I/O on the straight path may cross a multiple of it.
    pub(super) boundary: u64,
    pub(super) align_mask: usize,
}

impl Straight {
    /// A boundary that no valid I/O crosses, because no bdev is this large. A range that overflows
    /// `u64` crosses it.
    const NO_BOUNDARY: u64 = 1 << 63;

    fn of(record: &bay_bdev_reg) -> Self {
        let has = |op: u16| record.ops_mask & (1 << op) != 0;
        let read_only = record.flags & BAY_BDEV_READ_ONLY != 0;
        let limit = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        let boundary = u64::from(record.optimal_boundary);
        let in_segment = limit(record.max_segment_size) / record.block_size;
        let most = limit(record.max_io_blocks).min(in_segment);
        // Separate metadata must be checked, so no I/O to such a bdev is straight.
        let has_metadata = record.md_size != 0 && record.md_interleave == 0;
        let is_simple =
            has(BAY_OP_READ) && !has_metadata && (boundary == 0 || boundary.is_power_of_two());
        Self {
            writes: has(BAY_OP_WRITE) && !read_only && record.write_unit <= 1,
            most_blocks: if is_simple { most.into() } else { 0 },
            boundary: if boundary == 0 { Self::NO_BOUNDARY } else { boundary },
            align_mask: record.align.max(1) as usize - 1,
        }
    }
}

impl Limits {
    /// Whether I/O within the limits `self` never has more or longer pieces than `other` allows.
    pub(super) fn pieces_fit(&self, other: &Self) -> bool {
        let fits = |own: u32, limit: u32| limit == 0 || (own != 0 && own <= limit);
        fits(self.max_segments, other.max_segments)
            && fits(self.max_segment_size, other.max_segment_size)
            && fits(self.max_io_blocks, other.max_io_blocks)
    }

    /// Whether a client may send the op, which must be in [`OP_TABLE`].
    pub(super) fn allows(&self, op: u16) -> bool {
        self.ops_allowed & (1 << op) != 0
    }

    pub(super) fn declared(&self, op: u16) -> bool {
        self.ops & (1 << op) != 0
    }
}

#[derive(Default)]
struct Bus {
    by_name: BTreeMap<String, Arc<Bdev>>,
    by_id: BTreeMap<u64, Arc<Bdev>>,
    next_id: u64,
    /// Names and UUIDs that are reserved for a bdev that is registered later.
    reserved: BTreeMap<String, Reservation>,
}

struct Reservation {
    owner: usize,
    /// The name of the bdev.
    name: String,
}

impl Bus {
    /// Checks that no other reservation stands in the way when `owner` gives the bdev `name` the
    /// additional name `wanted`.
    fn check_free(&self, owner: usize, name: &str, wanted: &str) -> Result<()> {
        let is_own = |reserved: &Reservation| reserved.owner == owner && reserved.name == name;
        if self.reserved.get(wanted).is_some_and(|reserved| !is_own(reserved)) {
            let message = format!(
                "the name {wanted} is reserved for a bdev that is created when its base appears"
            );
            return Err(Error::new(libc::EEXIST, message));
        }
        Ok(())
    }
}

static BUS: Mutex<Option<Bus>> = Mutex::new(None);

fn bus<T>(f: impl FnOnce(&mut Bus) -> T) -> T {
    let mut bus = BUS.lock().unwrap_or_else(PoisonError::into_inner);
    f(bus.get_or_insert_with(Bus::default))
}

/// The control plane's callback for events on the bus.
pub type Observer = Box<dyn Fn(&str, &str) + Send + Sync>;
static OBSERVER: std::sync::OnceLock<Observer> = std::sync::OnceLock::new();

/// Sets the function that the bus calls with
/// `("bdev_register" | "bdev_resize" | "bdev_unregister", name)`. Calls after the first one have no
/// effect.
pub fn observe(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

fn tell(kind: &str, name: &str) {
    if let Some(observer) = OBSERVER.get() {
        observer(kind, name);
    }
}

/// Returns all bdevs, sorted by name.
#[must_use]
pub fn all() -> Vec<Arc<Bdev>> {
    bus(|bus| {
        let unique = bus.by_name.iter().filter(|(name, bdev)| **name == bdev.name);
        unique.map(|(_, bdev)| Arc::clone(bdev)).collect()
    })
}

/// Finds a bdev by name, alias or UUID (as text).
#[must_use]
pub fn find(name: &str) -> Option<Arc<Bdev>> {
    bus(|bus| bus.by_name.get(name).or_else(|| bus.by_name.get(&name.to_lowercase())).cloned())
}

/// Finds a bdev by handle.
#[must_use]
pub fn by_id(id: u64) -> Option<Arc<Bdev>> {
    bus(|bus| bus.by_id.get(&id).cloned())
}

/// The number of bdevs that an owner has.
#[must_use]
pub fn owned(owner: usize) -> usize {
    bus(|bus| bus.by_id.values().filter(|bdev| bdev.owner == owner).count())
}

/// Returns the bdevs of an owner, including those that are being removed.
pub(super) fn of_owner(owner: usize) -> Vec<Arc<Bdev>> {
    bus(|bus| bus.by_id.values().filter(|bdev| bdev.owner == owner).cloned().collect())
}

/// Ends the quiesces and destructs that a failed plugin has not answered. App thread.
pub(super) fn fail_all(owner: usize) {
    for bdev in of_owner(owner) {
        bdev.has_failed.store(true, Ordering::Release);
        let is_destructing = {
            let mut control = bdev.control();
            control.quiesced.clear();
            control.destructing
        };
        if is_destructing {
            destruct_done(bdev.id, -libc::EIO);
        }
    }
}

/// Removes a bdev of a failed plugin, because the plugin can no longer do it. Calls `done` when the
/// bdev is gone. App thread.
///
/// # Errors
/// `ENODEV` when no bdev of that name belongs to this owner and has failed.
pub fn delete_failed(
    owner: usize,
    name: &str,
    done: impl FnOnce(i32) + Send + 'static,
) -> Result<()> {
    let bdev = find(name).filter(|bdev| bdev.owner == owner && bdev.has_failed());
    unregister(bdev.ok_or_else(Error::no_such_device)?.id, done)
}

/// The texts of a registration, already copied.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) name: String,
    pub(crate) product: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) base: Option<String>,
}

/// Registers a bdev on the bus.
///
/// # Errors
/// `EINVAL` with the name of the wrong field; `EEXIST` with the name that is taken.
///
/// # Safety
/// `ops` and `record.ctx` belong together and stay valid until the bdev is destructed.
pub(crate) unsafe fn register(
    owner: usize,
    texts: Texts,
    record: bay_bdev_reg,
    ops: bay_bdev_ops,
) -> Result<u64> {
    check(&texts.name, &record, &ops)?;
    let uuid = if record.uuid == [0; 16] { uuid_of(&texts.name) } else { record.uuid };
    let id = bus(|bus| {
        let names = names(&texts.name, &uuid, &texts.aliases);
        if let Some(taken) = names.iter().find(|name| bus.by_name.contains_key(*name)) {
            return Err(Error::new(libc::EEXIST, format!("bdev {taken} already exists")));
        }
        for name in &names {
            bus.check_free(owner, &texts.name, name)?;
        }
        bus.next_id += 1;
        let bdev = Arc::new(Bdev {
            id: bus.next_id,
            name: texts.name.clone(),
            product: texts.product,
            uuid,
            base: texts.base,
            owner,
            record,
            ops,
            ctx: record.ctx,
            num_blocks: AtomicU64::new(record.num_blocks),
            reach: AtomicU64::new(record.num_blocks),
            removed: AtomicBool::new(false),
            resetting: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            quarantined: AtomicU32::new(0),
            is_told_elsewhere: AtomicBool::new(false),
            channels: AtomicU32::new(0),
            retired: Totals::default(),
            control: Mutex::new(Control { aliases: texts.aliases, ..Control::default() }),
        });
        bus.by_id.insert(bdev.id, Arc::clone(&bdev));
        for name in names {
            bus.by_name.insert(name, Arc::clone(&bdev));
        }
        Ok(bdev.id)
    })?;
    tracing::debug!(bdev = texts.name, "registered");
    tell("bdev_register", &texts.name);
    examine::show(&texts.name);
    Ok(id)
}

/// The longest name of a bdev, in bytes.
const NAME_MAX_LEN: usize = 255;

fn check(name: &str, record: &bay_bdev_reg, ops: &bay_bdev_ops) -> Result<()> {
    let bad = |what: String| Err(Error::new(libc::EINVAL, format!("bdev {name}: {what}")));
    if name.is_empty() || name.len() > NAME_MAX_LEN || name.contains('\0') {
        return bad(format!("name must be 1 to {NAME_MAX_LEN} bytes long"));
    }
    if ops.submit.is_none()
        || ops.chan_create.is_none()
        || ops.chan_destroy.is_none()
        || ops.destruct.is_none()
    {
        return bad("submit, chan_create, chan_destroy and destruct are required".into());
    }
    if record.block_size == 0 || record.block_size > 1 << 20 {
        return bad(format!("block_size {} must be 1 to 1048576", record.block_size));
    }
    check_size(record.block_size, record.num_blocks).or_else(bad)?;
    if !record.align.is_power_of_two() && record.align != 0 || record.align > 4096 {
        return bad(format!("align {} must be a power of two up to 4096", record.align));
    }
    check_limits(record).or_else(bad)?;
    refused::check(record).or_else(bad)?;
    if record.drv_ctx_size > 1 << 16 {
        return bad(format!("drv_ctx_size {} must be at most 65536", record.drv_ctx_size));
    }
    Ok(())
}

/// The one rule for sizes, at registration and at resize: the size in bytes fits a signed 64-bit
/// number, as file offsets do.
fn check_size(block_size: u32, num_blocks: u64) -> Result<(), String> {
    let most = i64::MAX.unsigned_abs() / u64::from(block_size.max(1));
    if (1..=most).contains(&num_blocks) {
        return Ok(());
    }
    Err(format!("num_blocks {num_blocks} is not allowed; allowed: 1 to {most}"))
}

/// Checks that every limit leaves room for the smallest write, so that the bus can split every I/O
/// to fit.
fn check_limits(record: &bay_bdev_reg) -> Result<(), String> {
    let unit = record.write_unit.max(1);
    if u64::from(unit) * u64::from(record.block_size) > 1 << 20 {
        return Err(format!("write_unit {unit} must be at most 1048576 bytes"));
    }
    if !record.optimal_boundary.is_multiple_of(unit) {
        return Err(format!(
            "optimal_boundary {} must be a multiple of write_unit {unit}",
            record.optimal_boundary
        ));
    }
    for (name, limit) in [
        ("max_io_blocks", record.max_io_blocks),
        ("max_unmap", record.max_unmap),
        ("max_write_zeroes", record.max_write_zeroes),
    ] {
        if limit != 0 && limit < unit {
            return Err(format!("{name} {limit} must be 0 or at least the write_unit, {unit}"));
        }
    }
    let bytes = u64::from(unit) * u64::from(record.block_size);
    if record.max_segment_size != 0 && u64::from(record.max_segment_size) < bytes {
        return Err(format!(
            "max_segment_size {} must be 0 or at least {bytes}, the smallest write",
            record.max_segment_size
        ));
    }
    Ok(())
}

impl Bdev {
    /// The capacity in blocks, as the last resize set it.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.num_blocks.load(Ordering::Relaxed)
    }

    /// Whether an I/O may end at block `last`. Always false once the removal has begun.
    #[inline]
    pub(super) fn reaches(&self, last: u64) -> bool {
        last < self.reach.load(Ordering::Relaxed)
    }

    /// The block size and capacity.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry { block_size: self.record.block_size, num_blocks: self.num_blocks() }
    }

    /// Whether its removal has begun.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(super) fn is_resetting(&self) -> bool {
        self.resetting.load(Ordering::Acquire)
    }

    /// Marks the bdev as being reset. Returns false when another reset is under way.
    pub(super) fn begin_reset(&self) -> bool {
        !self.resetting.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_reset(&self) {
        self.resetting.store(false, Ordering::Release);
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its aliases: the names besides its unique name.
    #[must_use]
    pub fn aliases(&self) -> Vec<String> {
        self.control().aliases.clone()
    }

    /// The kind of the claim that is held on it, if any.
    #[must_use]
    pub fn claim(&self) -> Option<&'static str> {
        self.control().claims.kind()
    }

    /// Whether a descriptor of this owner holds a claim.
    pub(super) fn is_claimed_by(&self, owner: usize) -> bool {
        let holders = self.control().claims.holders().to_vec();
        holders.into_iter().any(|id| desc::by_id(id).is_ok_and(|desc| desc.owner == owner))
    }

    /// The UUID as text.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        uuid_text(&self.uuid)
    }

    /// A bit for each op that a client may send, including the ops that the bus emulates.
    #[must_use]
    pub fn ops_allowed(&self) -> u64 {
        let ops = self.record.ops_mask & KNOWN_OPS;
        let has = |op: u16| ops & (1 << op) != 0;
        let mut allowed = ops | (1 << BAY_OP_RESET) | (1 << BAY_OP_ABORT) | (1 << BAY_OP_FLUSH);
        if has(BAY_OP_READ) {
            allowed |= 1 << BAY_OP_COMPARE;
        }
        if has(BAY_OP_WRITE) {
            allowed |= 1 << BAY_OP_WRITE_ZEROES;
        }
        allowed
    }

    /// The name of each op, and whether a client may send it.
    pub fn io_types(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let allowed = self.ops_allowed();
        OP_TABLE.into_iter().map(move |rules| (rules.name, allowed & (1 << rules.op) != 0))
    }

    pub(super) fn limits(&self) -> Limits {
        let record = &self.record;
        let split_data = record.optimal_boundary
            | record.max_segments
            | record.max_segment_size
            | record.max_io_blocks
            != 0;
        Limits {
            ops: record.ops_mask,
            ops_allowed: self.ops_allowed(),
            must_allowed: BAY_IO_FUA,
            block_size: record.block_size,
            md_size: if record.md_interleave == 0 { record.md_size } else { 0 },
            align: record.align.max(1),
            write_unit: record.write_unit.max(1),
            optimal_boundary: record.optimal_boundary,
            max_segments: record.max_segments,
            max_segment_size: record.max_segment_size,
            max_io_blocks: record.max_io_blocks,
            max_unmap: record.max_unmap,
            max_write_zeroes: record.max_write_zeroes,
            split_data,
            fua_declared: record.must_flags & BAY_IO_FUA != 0,
            write_cache: record.flags & BAY_BDEV_WRITE_CACHE != 0,
            read_only: record.flags & BAY_BDEV_READ_ONLY != 0,
            straight: Straight::of(record),
        }
    }

    /// Whether its plugin has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// The number of I/Os of its failed module that cannot complete yet.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined.load(Ordering::Relaxed) as usize
    }

    fn dump(&self, dump: Option<bay_dump_fn>) -> Option<String> {
        let dump = dump?;
        if self.is_removed() {
            return None;
        }
        let mut text = Collected::new(JSON_MAX);
        let sink = text.sink();
        // SAFETY: the context belongs to these functions and lives while the bdev is registered.
        // The sink is valid for the call.
        unsafe { dump(self.ctx, &raw const sink) };
        Some(text.into_text()).filter(|text| !text.is_empty())
    }

    /// The space of the pool that the bdev takes its space from; zeroes if there is none. Any reactor.
    #[must_use]
    pub fn space(&self) -> Space {
        let mut space = Space::default();
        if let Some(report) = self.ops.space.filter(|_| !self.is_removed() && !self.has_failed()) {
            // SAFETY: the context belongs to this function and lives while the bdev is registered. Both results outlive the call.
            unsafe { report(self.ctx, &raw mut space.total, &raw mut space.free) };
        }
        Space { free: space.free.min(space.total), ..space }
    }

    /// `driver_specific` of `bdev_get_bdevs`, as JSON text. App thread.
    #[must_use]
    pub fn dump_info(&self) -> Option<String> {
        self.dump(self.ops.dump_info)
    }

    /// The RPC call that creates the bdev again, as JSON text. App thread.
    #[must_use]
    pub fn config(&self) -> Option<String> {
        self.dump(self.ops.write_config)
    }

    /// The module's counters as JSON text. App thread.
    #[must_use]
    pub fn dump_stats(&self) -> Option<String> {
        self.dump(self.ops.dump_stats)
    }

    /// Sets the module's counters to zero. App thread.
    pub fn reset_module_stats(&self) {
        if let Some(reset) = self.ops.reset_stats {
            // SAFETY: as in `dump`.
            unsafe { reset(self.ctx) };
        }
    }
}

impl std::fmt::Debug for Bdev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bdev").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Changes the size of a bdev.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` for a size that is not allowed; `EBUSY` when the
/// bdev is open and would shrink.
pub fn resize(id: u64, num_blocks: u64) -> Result<()> {
    let bdev = by_id(id).ok_or_else(Error::no_such_device)?;
    check_size(bdev.record.block_size, num_blocks)
        .map_err(|why| Error::new(libc::EINVAL, format!("bdev {}: {why}", bdev.name)))?;
    let old = bdev.num_blocks();
    if num_blocks < old && !bdev.control().descs.is_empty() {
        let message = format!(
            "bdev {} is open and cannot shrink from {old} to {num_blocks} blocks",
            bdev.name
        );
        return Err(Error::new(libc::EBUSY, message));
    }
    bdev.num_blocks.store(num_blocks, Ordering::Relaxed);
    if !bdev.is_removed() {
        bdev.reach.store(num_blocks, Ordering::Relaxed);
    }
    if num_blocks != old {
        tell("bdev_resize", &bdev.name);
        desc::tell_all(&bdev, BAY_EVENT_RESIZE, num_blocks);
    }
    Ok(())
}

/// Reserves a name and a UUID for a bdev that `owner` registers later. If all bytes of `uuid` are
/// 0, the UUID is derived from the name. The owner may still have a bdev of that name, and may
/// remove it while the reservation lasts.
///
/// # Errors
/// `EEXIST` when the name or the UUID is taken.
pub fn reserve(owner: usize, name: &str, uuid: [u8; 16]) -> Result<()> {
    let uuid = if uuid == [0; 16] { uuid_of(name) } else { uuid };
    bus(|bus| {
        let names = names(name, &uuid, &[]);
        let is_own = |bdev: &Bdev| bdev.owner == owner && bdev.name == name;
        for wanted in &names {
            bus.check_free(owner, name, wanted)?;
            if bus.by_name.get(wanted).is_some_and(|bdev| !is_own(bdev)) {
                return Err(Error::new(libc::EEXIST, format!("bdev {wanted} already exists")));
            }
        }
        let reservation = |wanted| (wanted, Reservation { owner, name: name.to_owned() });
        bus.reserved.extend(names.into_iter().map(reservation));
        Ok(())
    })
}

/// Releases a reservation.
///
/// # Errors
/// `ENOENT` when `owner` has no reservation of that name.
pub fn release(owner: usize, name: &str) -> Result<()> {
    let count = release_if(|reserved| reserved.owner == owner && reserved.name == name);
    let none = || Error::new(libc::ENOENT, format!("name {name} is not reserved"));
    if count > 0 { Ok(()) } else { Err(none()) }
}

/// Releases all reservations of a plugin that stops.
pub(crate) fn release_all(owner: usize) {
    release_if(|reserved| reserved.owner == owner);
}

fn release_if(is_meant: impl Fn(&Reservation) -> bool) -> usize {
    bus(|bus| {
        let before = bus.reserved.len();
        bus.reserved.retain(|_, reserved| !is_meant(reserved));
        before - bus.reserved.len()
    })
}

/// Gives a bdev an alias. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` when the alias is empty or too long; `EEXIST` when
/// a bdev already has this name.
pub fn add_alias(id: u64, alias: &str) -> Result<()> {
    let bdev = by_id(id).filter(|bdev| !bdev.is_removed()).ok_or_else(Error::no_such_device)?;
    if alias.is_empty() || alias.len() > NAME_MAX_LEN || alias.contains('\0') {
        let message =
            format!("an alias of bdev {} must be 1 to {NAME_MAX_LEN} bytes long", bdev.name);
        return Err(Error::new(libc::EINVAL, message));
    }
    bus(|bus| {
        if bus.by_name.contains_key(alias) {
            return Err(Error::new(libc::EEXIST, format!("bdev {alias} already exists")));
        }
        bus.by_name.insert(alias.to_owned(), Arc::clone(&bdev));
        Ok(())
    })?;
    bdev.control().aliases.push(alias.to_owned());
    Ok(())
}

/// Removes an alias that came from `add_alias` or from the registration. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `ENOENT` when the bdev has no such alias.
pub fn remove_alias(id: u64, alias: &str) -> Result<()> {
    let bdev = by_id(id).filter(|bdev| !bdev.is_removed()).ok_or_else(Error::no_such_device)?;
    {
        let mut control = bdev.control();
        let Some(place) = control.aliases.iter().position(|other| other == alias) else {
            let message = format!("bdev {} has no alias {alias}", bdev.name);
            return Err(Error::new(libc::ENOENT, message));
        };
        control.aliases.remove(place);
    }
    bus(|bus| bus.by_name.remove(alias));
    Ok(())
}

/// All names by which a bdev can be found.
fn names(name: &str, uuid: &[u8; 16], aliases: &[String]) -> Vec<String> {
    let mut names = vec![name.to_owned(), uuid_text(uuid)];
    names.extend(aliases.iter().cloned());
    names
}

/// Removes a bdev from the bus. Calls `done` when the module has destructed it.
///
/// # Errors
/// `ENODEV` when there is no such bdev or its removal has already begun.
pub fn unregister(id: u64, done: impl FnOnce(i32) + Send + 'static) -> Result<()> {
    let bdev = by_id(id).ok_or_else(Error::no_such_device)?;
    if bdev.removed.swap(true, Ordering::AcqRel) {
        return Err(Error::no_such_device());
    }
    bdev.reach.store(0, Ordering::Relaxed);
    bdev.control().removal = Some(Box::new(done));
    let names = names(&bdev.name, &bdev.uuid, &bdev.aliases());
    bus(|bus| names.iter().for_each(|name| drop(bus.by_name.remove(name))));
    tell("bdev_unregister", &bdev.name);
    desc::tell_all(&bdev, BAY_EVENT_REMOVE, 0);
    // The module will never get the I/O that waits in the bus, so it fails here.
    let waiting = Arc::clone(&bdev);
    thread::for_each(
        move || {
            thread::with_current(|thread| {
                if let Some(channel) = thread.bdevs.of(&waiting) {
                    channel.fail_waiting(-libc::ENODEV);
                }
            });
        },
        move |_| finish_removal(&bdev),
    );
    Ok(())
}

/// What the removal of the bdev `name` waits for, as text for people; `None` when no removal is
/// under way.
#[must_use]
pub fn waits_for(name: &str) -> Option<String> {
    let leaving =
        bus(|bus| bus.by_id.values().find(|bdev| bdev.name == name && bdev.is_removed()).cloned())?;
    let (descs, destructing) = {
        let control = leaving.control();
        (control.descs.len(), control.destructing)
    };
    let channels = leaving.channels.load(Ordering::Acquire);
    Some(match (descs, channels) {
        (0, 0) if destructing => "its module has not released it".to_owned(),
        _ if leaving.quarantined() > 0 => format!(
            "{} I/O are quarantined: its plugin has failed, and a device may still touch their buffers",
            leaving.quarantined()
        ),
        _ => format!(
            "{descs} open descriptors and {channels} channels, with I/O in flight, still use it"
        ),
    })
}

/// Continues the removal of a bdev after one of its channels was freed. That channel may have been
/// the last one that the removal waited for.
pub(super) fn channel_is_gone(bdev: &Arc<Bdev>) {
    if bdev.is_removed() {
        let bdev = Arc::clone(bdev);
        thread::send_app(move || finish_removal(&bdev));
    }
}

/// Destructs a removed bdev once it has no descriptors and no channels. App thread.
pub(super) fn finish_removal(bdev: &Arc<Bdev>) {
    {
        let mut control = bdev.control();
        if control.destructing
            || control.removal.is_none()
            || !control.descs.is_empty()
            || bdev.channels.load(Ordering::Acquire) != 0
        {
            return;
        }
        control.destructing = true;
    }
    let Some(destruct) = bdev.ops.destruct else { return };
    // SAFETY: nothing uses the bdev any more, and the context belongs to these functions.
    let status = unsafe { destruct(bdev.ctx) };
    if status != 1 {
        destruct_done(bdev.id, status);
    }
}

/// The module has destructed its bdev.
pub fn destruct_done(id: u64, status: i32) {
    let Some(bdev) = bus(|bus| bus.by_id.remove(&id)) else { return };
    let done = bdev.control().removal.take();
    if let Some(done) = done {
        done(status);
    }
    failed::close_when_unused(bdev.owner);
}

/// A UUID in the format of version 5 that depends only on the name.
fn uuid_of(name: &str) -> [u8; 16] {
    // FNV-1a twice with different seeds. The UUID identifies; it is not for security.
    let hash = |seed: u64| {
        name.bytes()
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let wide =
        (u128::from(hash(0xcbf2_9ce4_8422_2325)) << 64) | u128::from(hash(0x9e37_79b9_7f4a_7c15));
    let mut bytes = wide.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// The UUID as lower-case text.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
