//! The kinds of claims, and their rules. A claim is the right to write to a bdev. The kinds and rules
//! are those of the reference, with one stricter rule: no claim is granted while another descriptor
//! may write.
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
//! The only holder of a shared claim may change its claim to exclusive write and back. Each change
//! is one step, so no other descriptor can claim the bdev in between.

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
    pub(in crate::bdev) fn lets_write(self) -> bool {
        self != Self::ReadManyWriteNone
    }

    /// Whether several descriptors may hold this claim at the same time.
    fn is_shared(self) -> bool {
        matches!(self, Self::ReadManyWriteNone | Self::ReadManyWriteShared)
    }
}

/// The claim on a bdev and who holds it.
#[derive(Debug, Default)]
pub(in crate::bdev) struct Claims {
    pub(in crate::bdev) held: Option<(Claim, u64)>,
    pub(in crate::bdev) holders: Vec<u64>,
}

impl Claims {
    pub(in crate::bdev) fn kind(&self) -> Option<&'static str> {
        self.held.map(|(claim, _)| claim.name())
    }

    pub(in crate::bdev) fn allows_new_writer(&self) -> bool {
        self.held.is_none()
    }

    pub(in crate::bdev) fn holders(&self) -> &[u64] {
        &self.holders
    }

    /// Removes a descriptor from the holders. Returns whether the descriptor held the claim.
    pub(in crate::bdev) fn release(&mut self, id: u64) -> bool {
        let before = self.holders.len();
        self.holders.retain(|&holder| holder != id);
        if self.holders.is_empty() {
            self.held = None;
        }
        self.holders.len() < before
    }

    /// Checks whether the descriptor `desc` may get the claim; the error says why not.
    pub(in crate::bdev) fn refusal(
        &self,
        desc: u64,
        is_writable: bool,
        kind: Claim,
        key: u64,
    ) -> Result<(), (i32, String)> {
        if kind == Claim::ReadManyWriteShared && key == 0 {
            return Err((libc::EINVAL, "a shared claim needs a key other than 0".into()));
        }
        if kind != Claim::ReadManyWriteShared && key != 0 {
            return Err((libc::EINVAL, format!("a claim {} takes no key: use 0", kind.name())));
        }
        if kind == Claim::ReadManyWriteNone && is_writable {
            let why = "the descriptor is open for writing";
            return Err((libc::EINVAL, why.into()));
        }
        match self.held {
            None => Ok(()),
            Some((held, _)) if self.holders == [desc] && is_change(held, kind) => Ok(()),
            Some((held, _)) if held != kind || !kind.is_shared() => {
                Err((libc::EPERM, format!("it is already claimed ({})", held.name())))
            }
            Some((_, held)) if held != key => {
                Err((libc::EPERM, "it is already claimed with another key".into()))
            }
            Some(_) if self.holders.contains(&desc) => {
                Err((libc::EPERM, "this descriptor has already claimed it".into()))
            }
            Some(_) => Ok(()),
        }
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
