//! Claims: a descriptor gets the sole or shared right to write to its bdev, and gives it back.

use super::desc;
use crate::bdev::state::{Claim, follow_writable};
use crate::{Error, Result};

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
    if let Err((errno, why)) = control.claims.refusal(id, desc.is_writable(), kind, key) {
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
        follow_writable(&desc);
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
        follow_writable(&desc);
    }
    Ok(())
}
