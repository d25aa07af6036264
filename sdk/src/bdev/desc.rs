//! Open bdevs.
#![expect(unsafe_code, reason = "calls the host's client interface; events carry a pointer")]

use super::client::Channel;
use super::op::{Geometry, OpSet, Range};
use super::zone::Zoning;
use crate::app::App;
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::{self, host};
use crate::thread;
use drivebay_plugin_api::{self as api, bay_bdev_info, bay_str};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

/// An event of an open bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The bdev is being removed: drop the descriptor as soon as its I/O has completed.
    Remove,
    /// The number of blocks has changed.
    Resize {
        /// The new number.
        num_blocks: u64,
    },
    /// Blocks lost their data. [`Desc::next_media_event`] returns which.
    Media,
}

/// What a claim allows other descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Only this descriptor may write.
    ExclusiveWrite,
    /// Many descriptors may read, only this one may write.
    ReadManyWriteOne,
    /// Many descriptors may read, none may write.
    ReadManyWriteNone,
    /// Many descriptors may read, those that claimed with the same key may write.
    ReadManyWriteShared {
        /// The key.
        key: u64,
    },
}

/// An open bdev. Any reactor can get a channel from it. Dropping it, on any thread, closes it on the
/// app thread; its channels must be dropped first.
#[derive(Debug)]
pub struct Desc {
    id: u64,
    events: *const Events,
}

// SAFETY: `open` takes an `App`, so it made `events` on the app thread. Only the app thread uses it: the
// host calls `event` there, and `Drop` closes there. The rest is a handle.
unsafe impl Send for Desc {}
// SAFETY: as above; the host accepts `info` and `chan_get` on any reactor.
unsafe impl Sync for Desc {}

type Handler = Box<dyn FnMut(&App, Event)>;

/// Empty while the handler runs.
struct Events(Cell<Option<Handler>>);

/// Opens a bdev by name, alias or UUID; with `write`, also for writing. Events arrive on the app thread.
/// `[app thread]`
///
/// # Errors
/// `ENODEV` when there is no such bdev, `EPERM` when the bdev does not allow writing.
pub fn open(
    _app: &App,
    name: &str,
    write: bool,
    on_event: impl FnMut(&App, Event) + 'static,
) -> Result<Desc> {
    let host = host();
    let flags = if write { api::BAY_OPEN_WRITE } else { 0 };
    let events = Rc::into_raw(Rc::new(Events(Cell::new(Some(Box::new(on_event))))));
    let mut id = 0;
    // SAFETY: `events` lives until the descriptor is closed.
    let status = unsafe {
        (host.client.open)(
            host.raw,
            bay_str::new(name),
            flags,
            Some(event),
            events.cast_mut().cast(),
            &raw mut id,
        )
    };
    if let Err(error) = check(status, format_args!("bdev {name}")) {
        // SAFETY: the host does not use `events` after it refused the open.
        drop(unsafe { Rc::from_raw(events) });
        return Err(error);
    }
    Ok(Desc { id, events })
}

unsafe extern "C" fn event(arg: *mut c_void, event: u32, value: u64) {
    let events = arg.cast_const().cast::<Events>();
    // SAFETY: `arg` is the pointer that `open` gave the host, and the descriptor is still open.
    unsafe { Rc::increment_strong_count(events) };
    // SAFETY: this code owns the count it has just added; the handler may drop the descriptor.
    let events = unsafe { Rc::from_raw(events) };
    let event = match event {
        api::BAY_EVENT_REMOVE => Event::Remove,
        api::BAY_EVENT_RESIZE => Event::Resize { num_blocks: value },
        api::BAY_EVENT_MEDIA => Event::Media,
        _ => return,
    };
    // SAFETY: the host sends events to the thread that opened the bdev, which is the app thread.
    let app = unsafe { App::assume() };
    enter((), move || {
        if let Some(mut handler) = events.0.take() {
            handler(app, event);
            events.0.set(Some(handler));
        }
        drop(events);
    });
}

impl Desc {
    /// Describes the bdev as it is now. `[any reactor]`
    ///
    /// # Errors
    /// The errors of the host, or `EINVAL` for an impossible geometry.
    pub fn info(&self) -> Result<Info> {
        let host = host();
        // SAFETY: the fields are numbers and a text, for which all zero bytes are valid.
        let mut raw: bay_bdev_info = unsafe { std::mem::zeroed() };
        raw.size = super::size_of_table::<bay_bdev_info>();
        // SAFETY: `raw` outlives the call.
        check(unsafe { (host.client.info)(host.raw, self.id, &raw mut raw) }, "bdev info")?;
        // SAFETY: the name is valid while the descriptor is open.
        let name = unsafe { host::text(raw.name) }.to_owned();
        Ok(Info { name, geometry: Geometry::new_any(raw.block_size, raw.num_blocks)?, raw })
    }

    /// Claims the bdev. A descriptor opened for reading may then write, if the claim lets its holder write;
    /// its channels learn of this soon. `[app thread]`
    ///
    /// # Errors
    /// `EPERM` when another claim or writer conflicts. `EINVAL` for a shared claim with key 0, and for
    /// [`Claim::ReadManyWriteNone`] with a descriptor opened for writing.
    pub fn claim(&self, _app: &App, claim: Claim) -> Result<()> {
        let (kind, key) = match claim {
            Claim::ExclusiveWrite => (api::BAY_CLAIM_EXCL_WRITE, 0),
            Claim::ReadManyWriteOne => (api::BAY_CLAIM_READ_MANY_WRITE_ONE, 0),
            Claim::ReadManyWriteNone => (api::BAY_CLAIM_READ_MANY_WRITE_NONE, 0),
            Claim::ReadManyWriteShared { key } => (api::BAY_CLAIM_READ_MANY_WRITE_SHARED, key),
        };
        let host = host();
        // SAFETY: `self` owns the handle.
        check(unsafe { (host.client.claim)(host.raw, self.id, kind, key) }, "claim")
    }

    /// Releases the claim. `[app thread]`
    ///
    /// # Errors
    /// When the descriptor has no claim.
    pub fn unclaim(&self, _app: &App) -> Result<()> {
        let host = host();
        // SAFETY: `self` owns the handle.
        check(unsafe { (host.client.unclaim)(host.raw, self.id) }, "unclaim")
    }

    /// Returns the oldest range of lost blocks that this descriptor has not returned yet. After [`Event::Media`],
    /// call it until it returns `None`. `[app thread]`
    #[must_use]
    pub fn next_media_event(&self, _app: &App) -> Option<Range> {
        let host = host();
        let (mut lba, mut nblocks) = (0, 0);
        // SAFETY: `self` owns the handle; both results outlive the call.
        let status =
            unsafe { (host.client.media_next)(host.raw, self.id, &raw mut lba, &raw mut nblocks) };
        (status == 0).then_some(Range::new(lba, nblocks))
    }

    /// Gets the current thread's channel. `[reactor]`
    ///
    /// # Errors
    /// The errors of the bdev's module.
    pub fn channel(&self) -> Result<Channel> {
        let info = self.info()?;
        Channel::get(self.id, info.block_size())
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        let closing = Closing { id: self.id, events: self.events };
        if thread::app().is_current() {
            return closing.close();
        }
        // SAFETY: `closing` belongs to the app thread, and this thread does not touch it again. If there is no
        // app thread, the host has ended.
        let _ = unsafe { thread::app().send_any(move || closing.close()) };
    }
}

struct Closing {
    id: u64,
    events: *const Events,
}

impl Closing {
    fn close(self) {
        let host = host();
        // SAFETY: `self` owns the handle, and this is the app thread.
        let status = unsafe { (host.client.close)(host.raw, self.id) };
        if status == 0 {
            // SAFETY: `self.events` is the reference count that `open` gave the host, and the host does not use it again.
            drop(unsafe { Rc::from_raw(self.events) });
        } else {
            tracing::error!("cannot close a bdev, because it still has channels: status {status}");
        }
    }
}

/// The space of a pool, in blocks of a bdev that takes its space from it. Other bdevs may share the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the pool.
    pub total: u64,
    /// The free part of it.
    pub free: u64,
}

/// Describes an open bdev to its client.
#[derive(Clone, Debug)]
pub struct Info {
    name: String,
    geometry: Geometry,
    raw: bay_bdev_info,
}

// SAFETY: no code reads the only pointer, `raw.name`, again.
unsafe impl Send for Info {}
// SAFETY: as above.
unsafe impl Sync for Info {}

impl Info {
    /// Name on the bus.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Block size and number of blocks.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Block size in bytes, including interleaved metadata.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.geometry.block_size()
    }

    /// Number of blocks.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.geometry.num_blocks()
    }

    /// UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.raw.uuid
    }

    /// Ops that a client may submit: those of the module and those that the bus emulates.
    #[must_use]
    pub fn ops(&self) -> OpSet {
        OpSet::from_bits(self.raw.ops_mask)
    }

    /// Whether the bdev has a volatile write cache.
    #[must_use]
    pub fn has_write_cache(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_WRITE_CACHE != 0
    }

    /// Whether the bdev refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_READ_ONLY != 0
    }

    /// Whether the bdev discards written data, and a read does not change its buffers. A client that passes
    /// read data on must clear the buffers before the read.
    #[must_use]
    pub fn keeps_no_data(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_NO_DATA != 0
    }

    /// Whether blocks that an unmap has deallocated read as zeroes. An unmap may still leave blocks unchanged.
    #[must_use]
    pub fn unmapped_reads_zeroes(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_UNMAPPED_ZEROES != 0
    }

    /// The space of the pool that the bdev takes its space from; `None` if there is no pool, or its size is unknown.
    #[must_use]
    pub fn space(&self) -> Option<Space> {
        let (total, free) = (self.raw.pool_blocks, self.raw.pool_free);
        (total > 0).then_some(Space { total, free })
    }

    /// How the bdev is divided into zones; `None` = it is not zoned.
    #[must_use]
    pub fn zoning(&self) -> Option<Zoning> {
        let raw = &self.raw;
        (raw.zone_size > 0).then_some(Zoning {
            zone_size: raw.zone_size,
            max_open: raw.max_open_zones,
            max_active: raw.max_active_zones,
            optimal_open: raw.optimal_open_zones,
            max_append: raw.max_zone_append,
        })
    }

    /// Refuses a zoned bdev, for users that write to blocks in any order.
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    pub fn require_no_zones(&self) -> Result<()> {
        if self.zoning().is_none() {
            return Ok(());
        }
        let why = format!("bdev {} is zoned; allowed: a bdev without zones", self.name());
        Err(Error::new(errno::EOPNOTSUPP, why))
    }

    /// All fields, as in the ABI.
    #[must_use]
    pub fn raw(&self) -> &bay_bdev_info {
        &self.raw
    }
}
