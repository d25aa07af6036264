//! Events: what the bus reports about a bdev to the owners of its descriptors and to the control plane.

use super::{desc, names};
use crate::bdev::state::{Bdev, failed_owners};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::sync::PoisonError;

/// The control plane's callback for events on the bus.
pub type Observer = Box<dyn Fn(&str, &str) + Send + Sync>;

static OBSERVER: std::sync::OnceLock<Observer> = std::sync::OnceLock::new();

/// Sets the function that the bus calls with
/// `("bdev_register" | "bdev_resize" | "bdev_unregister", name)`. Calls after the first one have no
/// effect.
pub fn observe(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

pub(super) fn notify(kind: &str, name: &str) {
    if let Some(observer) = OBSERVER.get() {
        observer(kind, name);
    }
}

/// Sends an event to the owner of every descriptor of the bdev, on the thread that opened it.
pub(super) fn send(bdev: &Bdev, event: u32, value: u64) {
    let ids = bdev.control().descs.clone();
    for id in ids {
        let Ok(desc) = desc::by_id(id) else { continue };
        if event == BAY_EVENT_REMOVE && failed_owners::has_failed(desc.owner) {
            desc::close_all_of(desc.owner, Some(bdev.id));
            continue;
        }
        let home = if desc.thread == 0 { thread::app() } else { desc.thread };
        thread::send_boxed(home, move || {
            // The owner may have closed it in the meantime.
            if let Ok(desc) = desc::by_id(id)
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
pub fn report_media(id: u64, lba: u64, nblocks: u64) -> Result<()> {
    let bdev = names::by_id(id).ok_or_else(Error::no_such_device)?;
    if lba.checked_add(nblocks).is_none_or(|end| end > bdev.num_blocks()) || nblocks == 0 {
        let message =
            format!("bdev {}: {nblocks} blocks from lba {lba} are not all on it", bdev.name);
        return Err(Error::new(libc::EINVAL, message));
    }
    let ids = bdev.control().descs.clone();
    let mut most = 0;
    for desc in ids.into_iter().filter_map(|id| desc::by_id(id).ok()) {
        let mut media = desc.media.lock().unwrap_or_else(PoisonError::into_inner);
        if media.len() == MEDIA_MAX {
            media.pop_front();
        }
        media.push_back((lba, nblocks));
        most = most.max(media.len() as u64);
    }
    send(&bdev, BAY_EVENT_MEDIA, most);
    Ok(())
}

/// Removes and returns the oldest range of lost blocks that the descriptor's owner has not read
/// yet.
#[must_use]
pub fn media_next(id: u64) -> Option<(u64, u64)> {
    desc::by_id(id).ok()?.media.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// The maximum number of ranges of lost blocks that a descriptor remembers; the oldest are dropped
/// first.
const MEDIA_MAX: usize = 256;
