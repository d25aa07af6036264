//! Claims: the right to write to a bdev. The kinds and rules are those of the reference, with one
//! stricter rule: no claim is granted while another descriptor may write.
//!
//! | kind | descriptor | others may have claimed | while it is held |
//! |---|---|---|---|
//! | exclusive write | becomes writable | nothing | only the holder writes |
//! | read many, write one | becomes writable | nothing | only the holder writes |
//! | read many, write none | must be read-only | the same | nobody writes |
//! | read many, write shared | becomes writable | the same with the same key | holders write |
//!
//! While any claim is held the bdev can be opened for reading only.
//!
//! The only holder of a shared claim may change its claim to exclusive write and back. Each change is one step, so no other descriptor can
//! claim the bdev in between.

use super::desc::{self, Desc};
use super::local;
use crate::{Error, Result};
use drivebay_plugin_api::*;

/// The kinds of claims, with the ABI's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Only the holder may write.
    ExclWrite,
    /// Many descriptors may read; only the holder may write.
    ReadManyWriteOne,
    /// Many descriptors may read; none may write.
    ReadManyWriteNone,
    /// All holders have the same key and may write.
    ReadManyWriteShared,
}

impl Claim {
    /// Converts the ABI's number; `None` when it is unknown.
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

    /// The name that `bdev_get_bdevs` shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExclWrite => "exclusive_write",
            Self::ReadManyWriteOne => "read_many_write_one",
            Self::ReadManyWriteNone => "read_many_write_none",
            Self::ReadManyWriteShared => "read_many_write_shared",
        }
    }

    /// Whether the holder's descriptor becomes writable.
    fn lets_write(self) -> bool {
        self != Self::ReadManyWriteNone
    }

    /// Whether several descriptors may hold this claim at the same time.
    fn is_shared(self) -> bool {
        matches!(self, Self::ReadManyWriteNone | Self::ReadManyWriteShared)
    }
}

/// Whether the only holder of a claim may change the claim's kind in this way. The holder may write under both kinds, so its I/O continues
/// during the change.
fn is_change(from: Claim, to: Claim) -> bool {
    matches!(
        (from, to),
        (Claim::ReadManyWriteShared, Claim::ExclWrite)
            | (Claim::ExclWrite, Claim::ReadManyWriteShared)
    )
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

    pub(super) fn allows_new_writer(&self) -> bool {
        self.held.is_none()
    }

    pub(super) fn holders(&self) -> &[u64] {
        &self.holders
    }

    /// Removes a descriptor from the holders. Returns whether the descriptor held the claim.
    pub(super) fn release(&mut self, id: u64) -> bool {
        let before = self.holders.len();
        self.holders.retain(|&holder| holder != id);
        if self.holders.is_empty() {
            self.held = None;
        }
        self.holders.len() < before
    }

    /// Checks whether `desc` may get the claim; the error says why not.
    fn refusal(&self, desc: &Desc, kind: Claim, key: u64) -> Result<(), (i32, String)> {
        if kind == Claim::ReadManyWriteShared && key == 0 {
            return Err((libc::EINVAL, "a shared claim needs a key other than 0".into()));
        }
        if kind != Claim::ReadManyWriteShared && key != 0 {
            return Err((libc::EINVAL, format!("a claim {} takes no key: use 0", kind.name())));
        }
        if kind == Claim::ReadManyWriteNone && desc.is_writable() {
            let why = "the descriptor is open for writing";
            return Err((libc::EINVAL, why.into()));
        }
        match self.held {
            None => Ok(()),
            Some((held, _)) if self.holders == [desc.id] && is_change(held, kind) => Ok(()),
            Some((held, _)) if held != kind || !kind.is_shared() => {
                Err((libc::EPERM, format!("it is already claimed ({})", held.name())))
            }
            Some((_, held)) if held != key => {
                Err((libc::EPERM, "it is already claimed with another key".into()))
            }
            Some(_) if self.holders.contains(&desc.id) => {
                Err((libc::EPERM, "this descriptor has already claimed it".into()))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Claims the bdev for a descriptor. A read-only descriptor becomes writable if the kind of claim
/// lets its holders write. App thread.
///
/// # Errors
/// `EPERM` when another claim or another writer is in the way; `EINVAL` when the kind does not fit
/// the key or the descriptor.
pub fn claim(id: u64, kind: Claim, key: u64) -> Result<()> {
    let desc = desc::by_id(id)?;
    let refuse = |errno: i32, why: &str| {
        let name = &desc.bdev.name;
        Err(Error::new(errno, format!("bdev {name} cannot be claimed ({}): {why}", kind.name())))
    };
    let mut control = desc.bdev.control();
    if let Err((errno, why)) = control.claims.refusal(&desc, kind, key) {
        return refuse(errno, &why);
    }
    let is_other_writer = |other: &u64| {
        *other != id
            && !control.claims.holders.contains(other)
            && desc::by_id(*other).is_ok_and(|other| other.is_writable())
    };
    if control.descs.iter().any(is_other_writer) {
        return refuse(libc::EPERM, "another descriptor has it open for writing");
    }
    control.claims.held = Some((kind, key));
    if !control.claims.holders.contains(&id) {
        control.claims.holders.push(id);
    }
    drop(control);
    if kind.lets_write() && !desc.is_writable() {
        desc.set_writable(true);
        local::follow_writable(&desc);
    }
    Ok(())
}

/// Releases a claim. A descriptor that was opened read-only becomes read-only again. App thread.
///
/// # Errors
/// `EBADF` for an unknown descriptor.
pub fn unclaim(id: u64) -> Result<()> {
    let desc = desc::by_id(id)?;
    let was_held = desc.bdev.control().claims.release(id);
    if was_held && desc.is_writable() && !desc.was_opened_writable {
        desc.set_writable(false);
        local::follow_writable(&desc);
    }
    Ok(())
}
