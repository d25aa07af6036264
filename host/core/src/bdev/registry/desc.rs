//! The open descriptors.

use super::names;
use crate::bdev::state::Desc;
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::bay_bdev_event_fn;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    let bdev = names::find(name).ok_or_else(Error::no_such_device)?;
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
    desc.bdev.proceed_with_removal();
    Ok(())
}

/// Closes the descriptors that a failed plugin has on the bdev `of`, or all of them.
pub(super) fn close_all_of(owner: usize, of: Option<u64>) {
    let is_meant =
        move |desc: &Desc| desc.owner == owner && of.is_none_or(|bdev| desc.bdev.id == bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.put_all(is_meant)),
        move |_| close_all(is_meant),
    );
}

/// Closes all descriptors for which `is_meant` returns true. They must have no channels.
fn close_all(is_meant: impl Fn(&Desc) -> bool) {
    let ids: Vec<u64> =
        table(|table| table.values().filter(|desc| is_meant(desc)).map(|desc| desc.id).collect());
    for id in ids {
        if let Err(error) = close(id) {
            tracing::error!("cannot close a descriptor of a failed plugin: {error}");
        }
    }
}

/// Returns the descriptor of a handle.
///
/// # Errors
/// `EBADF` when no descriptor has this handle.
pub fn by_id(id: u64) -> Result<Arc<Desc>> {
    table(|table| table.get(&id).cloned())
        .ok_or_else(|| Error::new(libc::EBADF, "no descriptor has this handle"))
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

static DESCS: Mutex<BTreeMap<u64, Arc<Desc>>> = Mutex::new(BTreeMap::new());

static NEXT: AtomicU64 = AtomicU64::new(1);

fn table<T>(f: impl FnOnce(&mut BTreeMap<u64, Arc<Desc>>) -> T) -> T {
    f(&mut DESCS.lock().unwrap_or_else(PoisonError::into_inner))
}
