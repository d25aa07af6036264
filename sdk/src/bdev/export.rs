//! Exports: bdevs that a protocol serves to its clients (NVMe namespaces, SCSI units, vhost and NBD disks).
//!
//! One rule applies to all of them: **exports share a bdev with each other, and with nobody else.** Every writable export holds the same
//! shared claim. So a bdev can be a namespace and a LUN at the same time. But a bdev that a RAID array, an lvol store or a filter has
//! claimed cannot be exported, and they cannot claim an exported bdev. A read-only export makes no claim.
//!
//! **A bdev with registered initiators or hosts has one export.** Each export keeps its own persistent reservation, and another export
//! would not enforce it. So an export makes its claim exclusive while an initiator or a host is registered: [`own_export`],
//! [`share_export`].

use super::desc::{Claim, Desc, Event, Info, open};
use crate::app::App;
use crate::error::{Error, Result, errno};

/// The key of the claim that all exports share.
const EXPORT_KEY: u64 = u64::from_be_bytes(*b"dbexport");

/// Opens a bdev to serve it to clients. Claims it if `is_writable` is true and the bdev is not read-only.
/// `[app thread]`
///
/// # Errors
/// `ENODEV` when the bdev does not exist, `EPERM` when something other than an export writes to it, `ENOTSUP` when it is
/// zoned, because no protocol of this tree can show zones.
pub fn open_export(
    app: &App,
    name: &str,
    is_writable: bool,
    on_event: impl FnMut(&App, Event) + 'static,
) -> Result<(Desc, Info)> {
    let desc = open(app, name, false, on_event)?;
    let info = desc.info()?;
    info.require_no_zones()?;
    if is_writable && !info.is_read_only() {
        share_export(app, &desc).map_err(|error| match error.errno() {
            errno::EPERM => Error::new(
                errno::EPERM,
                format!("bdev {name} is in use; allowed: a bdev that only other exports write"),
            ),
            _ => error,
        })?;
    }
    Ok((desc, info))
}

/// Makes a writable export the only export of its bdev. `[app thread]`
///
/// # Errors
/// `EPERM` when the bdev has other exports.
pub fn own_export(app: &App, desc: &Desc) -> Result<()> {
    desc.claim(app, Claim::ExclusiveWrite)
}

/// Lets other exports share the bdev again. `[app thread]`
///
/// # Errors
/// `EPERM` when something other than an export writes to it.
pub fn share_export(app: &App, desc: &Desc) -> Result<()> {
    desc.claim(app, Claim::ReadManyWriteShared { key: EXPORT_KEY })
}
