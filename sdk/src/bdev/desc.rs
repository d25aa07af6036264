//! Open bdevs.
#![expect(unsafe_code, reason = "calls the host's client interface; events come with a pointer")]

use super::client::Channel;
use super::op::{Geometry, OpSet, Range};
use crate::app::App;
use crate::entry::enter;
use crate::error::{Result, check};
use crate::host::{self, host};
use crate::thread;
use drivebay_plugin_api::{self as api, bay_bdev_info, bay_str};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

/// What happens to an open bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It goes away: drop the descriptor as soon as its I/O has ended.
    Remove,
    /// It has another number of blocks.
    Resize {
        /// The new number.
        num_blocks: u64,
    },
    /// Blocks lost their data: [`Desc::next_media_event`] tells which.
    Media,
}

/// How a descriptor excludes others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Only this descriptor may write.
    ExclusiveWrite,
    /// Many may read, this one may write.
    ReadManyWriteOne,
    /// Many may read, none may write.
    ReadManyWriteNone,
    /// Holders of the same key may write.
    ReadManyWriteShared {
        /// The key.
        key: u64,
    },
}

/// An open bdev. Channels are got from it on any reactor. Dropping it on any thread closes it on the
/// app thread; its channels must be gone by then.
#[derive(Debug)]
pub struct Desc {
    id: u64,
    events: *const Events,
}

// SAFETY: `open` takes an `App`, so `events` was made on the app thread. The host calls `event`, and
// `Drop` closes, there alone. The rest is a handle.
unsafe impl Send for Desc {}
// SAFETY: as above; the host takes `info` and `chan_get` on any reactor.
unsafe impl Sync for Desc {}

type Handler = Box<dyn FnMut(&App, Event)>;

/// Empty while the handler runs.
struct Events(Cell<Option<Handler>>);

/// Opens a bdev by name, alias or UUID, `write` for writing too. Events come on the app thread.
/// `[app thread]`
///
/// # Errors
/// `ENODEV` when there is none, `EPERM` when it may not be written.
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
        // SAFETY: a refused open does not keep it.
        drop(unsafe { Rc::from_raw(events) });
        return Err(error);
    }
    Ok(Desc { id, events })
}

unsafe extern "C" fn event(arg: *mut c_void, event: u32, value: u64) {
    let events = arg.cast_const().cast::<Events>();
    // SAFETY: `arg` is what `open` gave, and the descriptor is not closed.
    unsafe { Rc::increment_strong_count(events) };
    // SAFETY: the count just taken: a handler may drop the descriptor.
    let events = unsafe { Rc::from_raw(events) };
    let event = match event {
        api::BAY_EVENT_REMOVE => Event::Remove,
        api::BAY_EVENT_RESIZE => Event::Resize { num_blocks: value },
        api::BAY_EVENT_MEDIA => Event::Media,
        _ => return,
    };
    // SAFETY: the host sends events to the thread that opened: the app thread.
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
    /// What is known of the bdev now. `[any reactor]`
    ///
    /// # Errors
    /// What the host refuses, or a geometry that cannot be.
    pub fn info(&self) -> Result<Info> {
        let host = host();
        // SAFETY: numbers and a text; zeroes are a value.
        let mut raw: bay_bdev_info = unsafe { std::mem::zeroed() };
        raw.size = super::size_of_table::<bay_bdev_info>();
        // SAFETY: `raw` lives through the call.
        check(unsafe { (host.client.info)(host.raw, self.id, &raw mut raw) }, "bdev info")?;
        // SAFETY: the name is valid while the descriptor is open.
        let name = unsafe { host::text(raw.name) }.to_owned();
        Ok(Info { name, geometry: Geometry::new_any(raw.block_size, raw.num_blocks)?, raw })
    }

    /// Claims the bdev. A descriptor that was opened for reading may write then, if the claim lets its
    /// holders write; channels follow soon. `[app thread]`
    ///
    /// # Errors
    /// `EPERM` when another claim or another writer is in the way; `EINVAL` for a shared claim with key 0
    /// and for a claim that nobody writes of a descriptor that may write.
    pub fn claim(&self, _app: &App, claim: Claim) -> Result<()> {
        let (kind, key) = match claim {
            Claim::ExclusiveWrite => (api::BAY_CLAIM_EXCL_WRITE, 0),
            Claim::ReadManyWriteOne => (api::BAY_CLAIM_READ_MANY_WRITE_ONE, 0),
            Claim::ReadManyWriteNone => (api::BAY_CLAIM_READ_MANY_WRITE_NONE, 0),
            Claim::ReadManyWriteShared { key } => (api::BAY_CLAIM_READ_MANY_WRITE_SHARED, key),
        };
        let host = host();
        // SAFETY: the handle is ours.
        check(unsafe { (host.client.claim)(host.raw, self.id, kind, key) }, "claim")
    }

    /// Gives the claim back. `[app thread]`
    ///
    /// # Errors
    /// When there is none.
    pub fn unclaim(&self, _app: &App) -> Result<()> {
        let host = host();
        // SAFETY: the handle is ours.
        check(unsafe { (host.client.unclaim)(host.raw, self.id) }, "unclaim")
    }

    /// The oldest blocks that lost their data and that this descriptor was not told of yet: to be
    /// asked until there are none after [`Event::Media`]. `[app thread]`
    #[must_use]
    pub fn next_media_event(&self, _app: &App) -> Option<Range> {
        let host = host();
        let (mut lba, mut nblocks) = (0, 0);
        // SAFETY: the handle is ours; both results live through the call.
        let status =
            unsafe { (host.client.media_next)(host.raw, self.id, &raw mut lba, &raw mut nblocks) };
        (status == 0).then_some(Range::new(lba, nblocks))
    }

    /// The current thread's channel. `[reactor]`
    ///
    /// # Errors
    /// What the bdev's module answers.
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
        // SAFETY: `closing` belongs to the app thread and is not touched here any more. Without an
        // app thread the host has ended.
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
        // SAFETY: the handle is ours, on the app thread.
        let status = unsafe { (host.client.close)(host.raw, self.id) };
        if status == 0 {
            // SAFETY: the count that `open` gave the host, which calls no more.
            drop(unsafe { Rc::from_raw(self.events) });
        } else {
            tracing::error!("a bdev was closed with status {status}: its channels are not gone");
        }
    }
}

/// What a client may know of an open bdev.
#[derive(Clone, Debug)]
pub struct Info {
    name: String,
    geometry: Geometry,
    raw: bay_bdev_info,
}

// SAFETY: the only pointer, `raw.name`, is not read again.
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

    /// Block size, in bytes, interleaved metadata included.
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

    /// Ops that may be sent: declared ones and those the bus emulates.
    #[must_use]
    pub fn ops(&self) -> OpSet {
        OpSet::from_bits(self.raw.ops_mask)
    }

    /// Whether it has a volatile write cache.
    #[must_use]
    pub fn has_write_cache(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_WRITE_CACHE != 0
    }

    /// Whether it cannot be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_READ_ONLY != 0
    }

    /// Whether a read leaves its buffers as they are, with what their last owner left in them: who
    /// sends them on clears them first.
    #[must_use]
    pub fn keeps_no_data(&self) -> bool {
        self.raw.flags & api::BAY_BDEV_NO_DATA != 0
    }

    /// Everything, as the ABI has it.
    #[must_use]
    pub fn raw(&self) -> &bay_bdev_info {
        &self.raw
    }
}
