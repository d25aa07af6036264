//! Descriptors: open handles of bdevs, and their events.

use super::device::{self, Bdev};
use super::failed;
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An open bdev.
#[derive(Debug)]
pub struct Desc {
    /// Handle.
    pub id: u64,
    /// The bdev.
    pub bdev: Arc<Bdev>,
    /// Whether it was opened for writing.
    pub(super) was_opened_writable: bool,
    /// Whether writes are allowed, because of the open or of a claim.
    writable: AtomicBool,
    /// The address of the host table of the plugin that opened it; 0 = the host.
    pub owner: usize,
    thread: u64,
    event: Option<bay_bdev_event_fn>,
    arg: usize,
    pub(super) channels: AtomicU32,
    /// Ranges of blocks that lost their data and that the owner has not read yet.
    media: Mutex<VecDeque<(u64, u64)>>,
}

/// The maximum number of ranges of lost blocks that a descriptor remembers; the oldest are dropped
/// first.
const MEDIA_MAX: usize = 256;

impl Desc {
    /// Whether writes are allowed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    pub(super) fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Relaxed);
    }
}

static DESCS: Mutex<BTreeMap<u64, Arc<Desc>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

fn table<T>(f: impl FnOnce(&mut BTreeMap<u64, Arc<Desc>>) -> T) -> T {
    f(&mut DESCS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns the descriptor of a handle.
///
/// # Errors
/// `EBADF` when no descriptor has this handle.
pub fn by_id(id: u64) -> Result<Arc<Desc>> {
    table(|table| table.get(&id).cloned())
        .ok_or_else(|| Error::new(libc::EBADF, "no descriptor has this handle"))
}

/// Opens a bdev by name, alias or UUID.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EPERM` when `writable` is set and the bdev is claimed.
pub fn open(
    owner: usize,
    name: &str,
    writable: bool,
    event: Option<bay_bdev_event_fn>,
    arg: *mut c_void,
) -> Result<Arc<Desc>> {
    let bdev = device::find(name).ok_or_else(Error::no_such_device)?;
    let mut control = bdev.control();
    if writable && !control.claims.allows_new_writer() {
        let kind = control.claims.kind().unwrap_or_default();
        return Err(Error::new(
            libc::EPERM,
            format!("bdev {name} is claimed ({kind}) and can be opened for reading only"),
        ));
    }
    let desc = Arc::new(Desc {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        bdev: Arc::clone(&bdev),
        was_opened_writable: writable,
        writable: AtomicBool::new(writable),
        owner,
        thread: thread::current_id(),
        event,
        arg: arg as usize,
        channels: AtomicU32::new(0),
        media: Mutex::default(),
    });
    control.descs.push(desc.id);
    // The descriptor must be in the table before a claim looks for writers. If the claim missed it,
    // both could write.
    table(|table| table.insert(desc.id, Arc::clone(&desc)));
    drop(control);
    Ok(desc)
}

/// Closes a descriptor.
///
/// # Errors
/// `EBADF` when there is no such descriptor; `EBUSY` while it has channels.
pub fn close(id: u64) -> Result<()> {
    let desc = by_id(id)?;
    if desc.channels.load(Ordering::Acquire) != 0 {
        return Err(Error::new(libc::EBUSY, "the descriptor has channels; release them first"));
    }
    table(|table| table.remove(&id));
    {
        let mut control = desc.bdev.control();
        control.descs.retain(|&other| other != id);
        control.claims.release(id);
    }
    if desc.bdev.is_removed() {
        let bdev = Arc::clone(&desc.bdev);
        thread::send_app(move || device::finish_removal(&bdev));
    }
    Ok(())
}

/// Closes all descriptors for which `is_meant` returns true. They must have no channels.
pub(super) fn close_all(is_meant: impl Fn(&Desc) -> bool) {
    let ids: Vec<u64> =
        table(|table| table.values().filter(|desc| is_meant(desc)).map(|desc| desc.id).collect());
    for id in ids {
        if let Err(error) = close(id) {
            tracing::error!("cannot close a descriptor of a failed plugin: {error}");
        }
    }
}

/// Sends an event to the owner of every descriptor of the bdev, on the thread that opened it.
pub(super) fn tell_all(bdev: &Bdev, event: u32, value: u64) {
    let ids = bdev.control().descs.clone();
    for id in ids {
        let Ok(desc) = by_id(id) else { continue };
        if event == BAY_EVENT_REMOVE && failed::has_failed(desc.owner) {
            failed::close_descriptors(desc.owner, Some(bdev.id));
            continue;
        }
        let home = if desc.thread == 0 { thread::app() } else { desc.thread };
        thread::send_boxed(home, move || {
            // The owner may have closed it in the meantime.
            if let Ok(desc) = by_id(id)
                && let Some(call) = desc.event
            {
                // SAFETY: the owner passed the function and its argument together. They are valid
                // until the close, which happens on this thread.
                unsafe { call(desc.arg as *mut c_void, event, value) };
            }
        });
    }
}

/// Reports blocks that lost their data to the owner of every descriptor. App thread.
///
/// # Errors
/// `ENODEV`; `EINVAL` for blocks that are not on the bdev.
pub fn tell_media(id: u64, lba: u64, nblocks: u64) -> Result<()> {
    let bdev = device::by_id(id).ok_or_else(Error::no_such_device)?;
    if lba.checked_add(nblocks).is_none_or(|end| end > bdev.num_blocks()) || nblocks == 0 {
        let message =
            format!("bdev {}: {nblocks} blocks from lba {lba} are not all on it", bdev.name);
        return Err(Error::new(libc::EINVAL, message));
    }
    let ids = bdev.control().descs.clone();
    let mut most = 0;
    for desc in ids.into_iter().filter_map(|id| by_id(id).ok()) {
        let mut media = desc.media.lock().unwrap_or_else(PoisonError::into_inner);
        if media.len() == MEDIA_MAX {
            media.pop_front();
        }
        media.push_back((lba, nblocks));
        most = most.max(media.len() as u64);
    }
    tell_all(&bdev, BAY_EVENT_MEDIA, most);
    Ok(())
}

/// Removes and returns the oldest range of lost blocks that the descriptor's owner has not read
/// yet.
#[must_use]
pub fn media_next(id: u64) -> Option<(u64, u64)> {
    by_id(id).ok()?.media.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Whether a plugin other than `owner` has a bdev of `owner` open.
#[must_use]
pub fn others_use(owner: usize) -> bool {
    table(|table| table.values().any(|desc| desc.bdev.owner == owner && desc.owner != owner))
}

/// The number of descriptors that an owner has open.
#[must_use]
pub fn owned(owner: usize) -> usize {
    table(|table| table.values().filter(|desc| desc.owner == owner).count())
}
