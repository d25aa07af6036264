//! Descriptors: an open handle of a bdev, its events and its claim.

use super::device::{self, Bdev};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An open bdev.
#[derive(Debug)]
pub struct Desc {
    /// Handle.
    pub id: u64,
    /// The bdev.
    pub bdev: Arc<Bdev>,
    /// Whether writes are allowed.
    pub writable: bool,
    /// The host table of the plugin that opened it, 0 = the host.
    pub owner: usize,
    thread: u64,
    event: Option<bay_bdev_event_fn>,
    arg: usize,
    pub(super) channels: AtomicU32,
}

/// Kinds of claims, by the ABI's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Only the holder may write.
    ExclWrite,
    /// Many read, the holder writes.
    ReadManyWriteOne,
    /// Many read, none writes.
    ReadManyWriteNone,
    /// Holders of one key write.
    ReadManyWriteShared,
}

impl Claim {
    /// From the ABI's number.
    #[must_use]
    pub fn from_abi(kind: u32) -> Option<Self> {
        Some(match kind {
            BAY_CLAIM_EXCL_WRITE => Self::ExclWrite,
            BAY_CLAIM_READ_MANY_WRITE_ONE => Self::ReadManyWriteOne,
            BAY_CLAIM_READ_MANY_WRITE_NONE => Self::ReadManyWriteNone,
            BAY_CLAIM_READ_MANY_WRITE_SHARED => Self::ReadManyWriteShared,
            _ => return None,
        })
    }

    /// As `bdev_get_bdevs` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExclWrite => "exclusive_write",
            Self::ReadManyWriteOne => "read_many_write_one",
            Self::ReadManyWriteNone => "read_many_write_none",
            Self::ReadManyWriteShared => "read_many_write_shared",
        }
    }
}

/// The claim on a bdev and who holds it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    held: Option<(Claim, u64)>,
    holders: Vec<u64>,
}

impl Claims {
    pub(super) fn kind(&self) -> Option<&'static str> {
        self.held.map(|(claim, _)| claim.name())
    }

    fn allows_new_writer(&self) -> bool {
        self.held.is_none()
    }
}

static DESCS: Mutex<BTreeMap<u64, Arc<Desc>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

fn table<T>(f: impl FnOnce(&mut BTreeMap<u64, Arc<Desc>>) -> T) -> T {
    f(&mut DESCS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The descriptor of a handle.
///
/// # Errors
/// `EBADF` when there is none.
pub fn by_id(id: u64) -> Result<Arc<Desc>> {
    table(|table| table.get(&id).cloned())
        .ok_or_else(|| Error::new(libc::EBADF, "no descriptor has this handle"))
}

/// Opens a bdev by name, alias or UUID.
///
/// # Errors
/// `ENODEV`; `EPERM` when it is claimed and `writable` is asked for.
pub fn open(
    owner: usize,
    name: &str,
    writable: bool,
    event: Option<bay_bdev_event_fn>,
    arg: *mut c_void,
) -> Result<Arc<Desc>> {
    let bdev = device::find(name).ok_or_else(Error::no_device)?;
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
        writable,
        owner,
        thread: thread::current_id(),
        event,
        arg: arg as usize,
        channels: AtomicU32::new(0),
    });
    control.descs.push(desc.id);
    // Before anybody can look for writers: a claim that misses this one would let both write.
    table(|table| table.insert(desc.id, Arc::clone(&desc)));
    drop(control);
    Ok(desc)
}

/// Closes a descriptor.
///
/// # Errors
/// `EBADF`; `EBUSY` while it has channels.
pub fn close(id: u64) -> Result<()> {
    let desc = by_id(id)?;
    if desc.channels.load(Ordering::Acquire) != 0 {
        return Err(Error::new(libc::EBUSY, "the descriptor has channels; put them first"));
    }
    table(|table| table.remove(&id));
    {
        let mut control = desc.bdev.control();
        control.descs.retain(|&other| other != id);
        release(&mut control.claims, id);
    }
    if desc.bdev.is_removed() {
        let bdev = Arc::clone(&desc.bdev);
        thread::send_app(move || device::finish_removal(&bdev));
    }
    Ok(())
}

/// Claims the bdev for a descriptor.
///
/// # Errors
/// `EPERM` when another claim or another writer is in the way.
pub fn claim(id: u64, kind: Claim, key: u64) -> Result<()> {
    let desc = by_id(id)?;
    let mut control = desc.bdev.control();
    let refuse = |why: &str| {
        Err(Error::new(libc::EPERM, format!("bdev {} cannot be claimed: {why}", desc.bdev.name)))
    };
    match control.claims.held {
        None => {}
        Some((held, held_key))
            if held == kind
                && (kind == Claim::ReadManyWriteNone
                    || (kind == Claim::ReadManyWriteShared && held_key == key)) => {}
        Some((held, _)) => return refuse(&format!("it is claimed already ({})", held.name())),
    }
    let others: Vec<u64> = control.descs.iter().copied().filter(|&other| other != id).collect();
    let holders = &control.claims.holders;
    let other_writer = table(|table| {
        others
            .iter()
            .filter(|other| !holders.contains(other))
            .any(|other| table.get(other).is_some_and(|other| other.writable))
    });
    if other_writer {
        return refuse("it is open for writing elsewhere");
    }
    control.claims.held = Some((kind, key));
    if !control.claims.holders.contains(&id) {
        control.claims.holders.push(id);
    }
    Ok(())
}

/// Gives a claim back.
///
/// # Errors
/// `EBADF` for an unknown descriptor.
pub fn unclaim(id: u64) -> Result<()> {
    let desc = by_id(id)?;
    release(&mut desc.bdev.control().claims, id);
    Ok(())
}

fn release(claims: &mut Claims, id: u64) {
    claims.holders.retain(|&holder| holder != id);
    if claims.holders.is_empty() {
        claims.held = None;
    }
}

/// Tells every descriptor's owner of an event, on the thread of its open.
pub(super) fn tell_all(bdev: &Bdev, event: u32, value: u64) {
    let ids = bdev.control().descs.clone();
    for id in ids {
        let Ok(desc) = by_id(id) else { continue };
        let home = if desc.thread == 0 { thread::app() } else { desc.thread };
        thread::send_boxed(home, move || {
            // It may have been closed meanwhile.
            if let Ok(desc) = by_id(id)
                && let Some(call) = desc.event
            {
                // SAFETY: function and argument came together with the open and are valid until
                // the close, which happens on this thread.
                unsafe { call(desc.arg as *mut c_void, event, value) };
            }
        });
    }
}

/// How many descriptors an owner has open.
#[must_use]
pub fn owned(owner: usize) -> usize {
    table(|table| table.values().filter(|desc| desc.owner == owner).count())
}
