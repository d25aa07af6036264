//! `bdev_<module>_create`, `_rescan` and `_delete`.

use drivebay_sdk::bdev::{self, Delete};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method};
use drivebay_sdk::serde_json;

use crate::FileBdev;
use crate::kind::Kind;

params! {
    /// Parameters of `bdev_aio_rescan` and `bdev_uring_rescan`.
    pub struct Rescan {
        /// Name of the bdev.
        pub name: String,
    }
}

/// Registers the methods of kind `K`. `[app thread]`
///
/// # Errors
/// `EEXIST` if a method's name is taken.
pub fn register<K: Kind>(app: &App) -> Result<()> {
    let module = K::MODULE;
    Method::immediate(
        &format!("bdev_{module}_create"),
        &format!("Creates a bdev from a file or block device ({module})."),
        create::<K>,
    )
    .describe(|method| {
        method
            .result("Name of the new bdev.")
            .error(
                -16,
                "busy",
                "Another program or bdev has locked the file, or the device is mounted.",
            )
            .error(-17, "exists", "A bdev has that name.")
            .error(-22, "invalid_value", "A parameter has a value that is not allowed.")
    })
    .register(app)?;
    Method::immediate(
        &format!("bdev_{module}_rescan"),
        "Sets the size of the bdev to the present size of its file or block device.\n\n\
         A bdev cannot shrink while it is open. If its file has become shorter, I/O beyond the end of the file fails.",
        rescan::<K>,
    )
    .describe(|method| {
        method.result("true").error(-16, "busy", "The bdev would shrink, and it is open.").error(
            -19,
            "no_such_device",
            "No bdev of this module has that name.",
        )
    })
    .register(app)?;
    Method::new(
        &format!("bdev_{module}_delete"),
        "Deletes the bdev. The file remains.\n\nThe answer comes when its I/O has completed and the bdev is gone.",
        delete::<K>,
    )
    .describe(|method| {
        method.result("true").error(-19, "no_such_device", "No bdev of this module has that name.")
    })
    .register(app)
}

fn create<K: Kind>(app: &App, params: K::Params) -> Result<String> {
    let bdev = FileBdev::<K>::create(app, params)?;
    // The UUID is saved, so the disk keeps its identity when the operator moves the file and
    // changes its path in the configuration.
    let saved = serde_json::to_value(K::saved(&bdev.disk))
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))?;
    bdev::register(app, bdev, &format!("bdev_{}_create", K::MODULE), saved)
}

fn rescan<K: Kind>(app: &App, params: Rescan) -> Result<bool> {
    let bdev = bdev::find::<FileBdev<K>>(&params.name)?;
    let (before, now) = (bdev.disk.num_blocks(), bdev.disk.measure()?);
    if now != before {
        bdev.resize(app, now)?;
        bdev.disk.set_num_blocks(now);
        info!("{}: resized from {before} to {now} blocks", params.name);
    }
    Ok(true)
}

fn delete<K: Kind>(app: &App, call: Call, params: Delete) {
    match bdev::find::<FileBdev<K>>(&params.name) {
        Ok(bdev) => bdev.unregister(app, |_, gone| call.answer(gone.map(|()| true))),
        Err(error) => call.fail(error),
    }
}
