//! The removal of a bdev: no new I/O, the clients close their channels and descriptors, then the
//! module destructs.

use super::names::{bus, by_id, find, names, owned};
use super::{desc, events};
use crate::bdev::path::channel_life;
use crate::bdev::state::{Bdev, Removal, failed_owners};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::BAY_EVENT_REMOVE;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    bdev.control().removal = Some(Removal { proceed, done: Box::new(done) });
    let names = names(&bdev.name, &bdev.uuid, &bdev.aliases());
    bus(|bus| names.iter().for_each(|name| drop(bus.by_name.remove(name))));
    events::notify("bdev_unregister", &bdev.name);
    events::send(&bdev, BAY_EVENT_REMOVE, 0);
    // The module will never get the I/O that waits in the bus, so it fails here.
    let waiting = Arc::clone(&bdev);
    thread::for_each(
        move || {
            thread::with_current(|thread| {
                if let Some(channel) = thread.bdevs.of(&waiting) {
                    channel_life::fail_waiting(channel, -libc::ENODEV);
                }
            });
        },
        move |_| proceed(&bdev),
    );
    Ok(())
}

/// Destructs a removed bdev once it has no descriptors and no channels. App thread.
fn proceed(bdev: &Arc<Bdev>) {
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
    let removal = bdev.control().removal.take();
    if let Some(Removal { done, .. }) = removal {
        done(status);
    }
    close_when_unused(bdev.owner);
}

/// A bdev of this owner is gone. When it was the last one of a failed plugin, closes the plugin's
/// descriptors. App thread.
pub(super) fn close_when_unused(owner: usize) {
    if failed_owners::has_failed(owner) && owned(owner) == 0 {
        desc::close_all_of(owner, None);
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
