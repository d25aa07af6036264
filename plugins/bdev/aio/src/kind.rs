//! The differences between `bdev_aio_*` and `bdev_uring_*`.

use std::fmt;

use drivebay_ring::Engine;
use drivebay_sdk::bdev::only;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Params;
use drivebay_sdk::serde_json::{Map, Value, json};

use crate::disk::{FileDisk, Wanted};

/// A family of methods that make bdevs of files.
pub trait Kind: fmt::Debug + Send + Sync + 'static {
    /// Parameters of `bdev_<module>_create`.
    type Params: Params;
    /// Name in the methods.
    const MODULE: &'static str;
    /// Product name, as `bdev_get_bdevs` shows it.
    const PRODUCT: &'static str;

    /// Converts the parameters to the description of a disk.
    ///
    /// # Errors
    /// `EINVAL` naming a parameter that is not supported.
    fn wanted(params: Self::Params) -> Result<Wanted>;

    /// The parameters that create the disk again with the same identity.
    fn saved(disk: &FileDisk) -> Self::Params;

    /// The `driver_specific` part of `bdev_get_bdevs`.
    fn driver_specific(disk: &FileDisk) -> Map<String, Value>;
}

/// `bdev_aio_*`: with io_uring if the kernel has it, else with libaio.
#[derive(Debug)]
pub struct Aio;

/// `bdev_uring_*`: only with io_uring.
#[derive(Debug)]
pub struct Uring;

params! {
    /// Parameters of `bdev_aio_create`.
    pub struct AioCreate {
        /// Name of the new bdev.
        pub name: String,
        /// Path of a regular file or block device.
        #[range(1..=4095)]
        pub filename: String,
        /// Block size, in bytes: a power of two, at least 512. If 0 or absent, the block size of the file or device is used.
        pub block_size: Option<u32>,
        /// If true, the bdev is read-only.
        pub readonly: bool = false,
        /// If true, a bdev on a regular file supports unmap (by punching holes) and write zeroes. Block devices always support them.
        pub fallocate: bool = false,
        /// UUID. If absent, it is derived from the canonical path.
        pub uuid: Option<Uuid>,
        /// If true, I/O that would block fails. Only false is supported.
        pub nowait: bool = false,
    }
    /// Parameters of `bdev_uring_create`.
    pub struct UringCreate {
        /// Path of a regular file or block device.
        #[range(1..=4095)]
        pub filename: String,
        /// Name of the new bdev.
        pub name: String,
        /// Block size, in bytes: a power of two, at least 512. If 0 or absent, the block size of the file or device is used.
        pub block_size: Option<u32>,
        /// UUID. If absent, it is derived from the canonical path.
        pub uuid: Option<Uuid>,
    }
}

impl Kind for Aio {
    type Params = AioCreate;
    const MODULE: &'static str = "aio";
    const PRODUCT: &'static str = "AIO disk";

    fn wanted(params: AioCreate) -> Result<Wanted> {
        only("nowait", params.nowait, false)?;
        Ok(Wanted {
            name: params.name,
            filename: params.filename,
            block_size: params.block_size,
            is_read_only: params.readonly,
            fallocate: params.fallocate,
            uuid: params.uuid,
            engine: pick_engine(),
        })
    }

    fn saved(disk: &FileDisk) -> AioCreate {
        AioCreate {
            name: disk.name().to_owned(),
            filename: disk.filename().to_owned(),
            block_size: disk.is_block_size_given().then_some(disk.block_size()),
            readonly: disk.is_read_only(),
            fallocate: disk.fallocate(),
            uuid: Some(disk.uuid()),
            nowait: false,
        }
    }

    fn driver_specific(disk: &FileDisk) -> Map<String, Value> {
        let aio = json!({
            "filename": disk.filename(),
            "block_size_override": disk.is_block_size_given(),
            "readonly": disk.is_read_only(),
            "fallocate": disk.fallocate(),
            "nowait": false,
        });
        Map::from_iter([("aio".to_owned(), aio)])
    }
}

/// Returns io_uring if the kernel has it, else libaio.
fn pick_engine() -> Engine {
    match Engine::IoUring.probe() {
        Ok(()) => Engine::IoUring,
        Err(error) => {
            info!("io_uring is not available ({error}): using libaio");
            Engine::Libaio
        }
    }
}

impl Kind for Uring {
    type Params = UringCreate;
    const MODULE: &'static str = "uring";
    const PRODUCT: &'static str = "URING bdev";

    fn wanted(params: UringCreate) -> Result<Wanted> {
        Engine::IoUring.probe().map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(errno::ENOSYS);
            Error::new(
                errno,
                format!("io_uring is not available ({error}); bdev_aio_create can do without it"),
            )
        })?;
        Ok(Wanted {
            name: params.name,
            filename: params.filename,
            block_size: params.block_size,
            is_read_only: false,
            fallocate: false,
            uuid: params.uuid,
            engine: Engine::IoUring,
        })
    }

    fn saved(disk: &FileDisk) -> UringCreate {
        UringCreate {
            filename: disk.filename().to_owned(),
            name: disk.name().to_owned(),
            block_size: Some(disk.block_size()),
            uuid: Some(disk.uuid()),
        }
    }

    fn driver_specific(disk: &FileDisk) -> Map<String, Value> {
        Map::from_iter([("uring".to_owned(), json!({ "filename": disk.filename() }))])
    }
}
