//! Exports: bdevs that a protocol serves to its clients (NVMe namespaces, SCSI units, vhost and NBD disks).
//!
//! One rule for all of them: **exports share a bdev with each other, and with nobody else.** Every writable export holds the same shared
//! claim. So a bdev can be a namespace and a LUN at once, while a bdev that belongs to a RAID array, an lvol store or a filter
//! cannot be exported, and an exported bdev cannot be taken by one of those. A read-only export claims nothing.
//!
//! **A bdev with registered initiators or hosts has one export.** Another protocol, or another target, would not keep to a persistent
//! reservation. So an export makes its claim exclusive while somebody is registered: [`own_export`], [`share_export`].

use super::desc::{Claim, Desc, Event, Info, open};
use crate::app::App;
use crate::error::{Error, Result, errno};

/// The key of the claim that all exports share.
const EXPORT_KEY: u64 = u64::from_be_bytes(*b"dbexport");

/// Opens a bdev to serve it to clients, and claims it if they may write: `is_writable`, and the bdev itself can be written.
/// `[app thread]`
///
/// # Errors
/// `ENODEV` when there is no such bdev, `EPERM` when something that is no export writes it.
pub fn open_export(
    app: &App,
    name: &str,
    is_writable: bool,
    on_event: impl FnMut(&App, Event) + 'static,
) -> Result<(Desc, Info)> {
    let desc = open(app, name, false, on_event)?;
    let info = desc.info()?;
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

/// Makes a writable export the only one of its bdev. `[app thread]`
///
/// # Errors
/// `EPERM` when there are others.
pub fn own_export(app: &App, desc: &Desc) -> Result<()> {
    desc.claim(app, Claim::ExclusiveWrite)
}

/// Lets other exports share the bdev again. `[app thread]`
///
/// # Errors
/// `EPERM` when something that is no export writes it.
pub fn share_export(app: &App, desc: &Desc) -> Result<()> {
    desc.claim(app, Claim::ReadManyWriteShared { key: EXPORT_KEY })
}
