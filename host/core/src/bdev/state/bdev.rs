//! A bdev on the bus.

use super::claim::Claims;
use super::limits::max_zone_append;
use super::quiesced::Quiesced;
use super::stats::Totals;
use crate::reactor::thread;
use drivebay_plugin_api::*;
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
    pub(in crate::bdev) ops: bay_bdev_ops,
    pub(in crate::bdev) ctx: *mut c_void,
    pub(in crate::bdev) num_blocks: AtomicU64,
    /// The block number below which the last block of an I/O must be: `num_blocks`, or 0 once the
    /// removal has begun.
    pub(in crate::bdev) reach: AtomicU64,
    pub(in crate::bdev) removed: AtomicBool,
    pub(in crate::bdev) resetting: AtomicBool,
    pub(in crate::bdev) has_failed: AtomicBool,
    /// The number of I/Os of its failed module, on all channels, that cannot complete yet.
    pub(in crate::bdev) quarantined: AtomicU32,
    /// Whether the log has already reported that the module completes I/O on wrong threads.
    pub(in crate::bdev) reported_wrong_thread: AtomicBool,
    pub(in crate::bdev) channels: AtomicU32,
    pub(in crate::bdev) retired: Totals,
    pub(in crate::bdev) control: Mutex<Control>,
}

/// The state that only the control path uses.
#[derive(Default)]
pub(in crate::bdev) struct Control {
    pub(in crate::bdev) aliases: Vec<String>,
    pub(in crate::bdev) descs: Vec<u64>,
    pub(in crate::bdev) claims: Claims,
    pub(in crate::bdev) quiesced: Vec<Quiesced>,
    pub(in crate::bdev) removal: Option<Removal>,
    pub(in crate::bdev) destructing: bool,
}

/// A removal that has begun.
pub(in crate::bdev) struct Removal {
    /// Continues the removal after a channel or a descriptor is gone. The registry stores its function
    /// here, because the state does not know the registry. App thread.
    pub(in crate::bdev) proceed: fn(&Arc<Bdev>),
    /// Called with the module's status when the module has destructed the bdev.
    pub(in crate::bdev) done: Done,
}

type Done = Box<dyn FnOnce(i32) + Send>;

/// The longest JSON text that a module may write about one bdev, in bytes.
pub(in crate::bdev) const JSON_MAX: usize = 1 << 20;

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

impl Bdev {
    /// The capacity in blocks, as the last resize set it.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.num_blocks.load(Ordering::Relaxed)
    }

    /// Whether an I/O may end at block `last`. Always false once the removal has begun.
    #[inline]
    pub(in crate::bdev) fn reaches(&self, last: u64) -> bool {
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

    pub(in crate::bdev) fn is_resetting(&self) -> bool {
        self.resetting.load(Ordering::Acquire)
    }

    /// Marks the bdev as being reset. Returns false when another reset is under way.
    pub(in crate::bdev) fn begin_reset(&self) -> bool {
        !self.resetting.swap(true, Ordering::AcqRel)
    }

    pub(in crate::bdev) fn end_reset(&self) {
        self.resetting.store(false, Ordering::Release);
    }

    pub(in crate::bdev) fn control(&self) -> MutexGuard<'_, Control> {
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

    /// The longest append to a zone that a client may send, in blocks; 0 = it has no zones.
    #[must_use]
    pub fn max_zone_append(&self) -> u32 {
        max_zone_append(&self.record)
    }

    /// The name of each op, and whether a client may send it.
    pub fn io_types(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let allowed = self.ops_allowed();
        OP_TABLE.into_iter().map(move |rules| (rules.name, allowed & (1 << rules.op) != 0))
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

    /// Continues the removal, if one has begun, because a channel or a descriptor is gone. It may
    /// have been the last one that the removal waited for. Any thread.
    pub(in crate::bdev) fn proceed_with_removal(self: &Arc<Self>) {
        let proceed = self.control().removal.as_ref().map(|removal| removal.proceed);
        if let Some(proceed) = proceed {
            let bdev = Arc::clone(self);
            thread::send_app(move || proceed(&bdev));
        }
    }
}

// ---- what only the module knows -------------------------------------------------------------------

impl Bdev {
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

/// The UUID as lower-case text.
#[must_use]
pub(in crate::bdev) fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
