//! `bdev_nvme_apply_firmware`: downloads an image to a controller, activates it, and resets the controller.

use drivebay_nvme_driver::spec::Command;
use drivebay_nvme_driver::spec::opcode::admin;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::worker;

use super::{INTERNAL_ERROR, task_with_code};
use crate::admin::{Admin, Data};
use crate::app;
use crate::controller::Wish;

/// How much of the image goes in one command, in bytes.
const PIECE_LEN: usize = 4096;
/// Longest image, in bytes.
const IMAGE_LEN_MAX: u64 = 256 << 20;
/// Commit Action 1 in bits 5:3: the image replaces that of the slot and is activated at the next reset. Slot 0 in bits 2:0: the
/// controller chooses. NVMe Base 2.0, section 5.12.
const REPLACE_AND_ACTIVATE: u32 = 1 << 3;

params! {
    /// Parameters of `bdev_nvme_apply_firmware`.
    pub struct ApplyFirmware {
        /// File with the image.
        pub filename: String,
        /// Name of a bdev of the controller.
        pub bdev_name: String,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    task_with_code(
        INTERNAL_ERROR,
        "bdev_nvme_apply_firmware",
        "Downloads firmware to a controller, activates it, and resets the controller.",
        apply,
    )
    .describe(|mut method| {
        method.role = drivebay_sdk::rpc::Role::Admin;
        method.result("What was done.").error(
            INTERNAL_ERROR,
            "failed",
            "There is no such bdev or file, or the controller refused the image.",
        )
    })
    .register(app)
}

async fn apply(_: &App, params: ApplyFirmware) -> Result<String> {
    let ApplyFirmware { filename, bdev_name } = params;
    let group = app::get()?.with_bdev(&bdev_name);
    let controller =
        group.and_then(|group| group.members().into_iter().next()).ok_or_else(|| {
            Error::new(
                errno::ENODEV,
                format!("bdev {bdev_name}: not the bdev of an NVMe controller"),
            )
        })?;
    let image = worker::run("read firmware", move || read(&filename)).await??;
    download(&*controller.connected()?, &image).await?;
    controller.control(Wish::Reset).await?;
    Ok("firmware commit succeeded. Controller reset in progress.".to_owned())
}

/// Reads an image. `[worker]`
fn read(filename: &str) -> Result<Vec<u8>> {
    let about = |error: std::io::Error| {
        Error::new(error.raw_os_error().unwrap_or(errno::EIO), format!("{filename}: {error}"))
    };
    let len = std::fs::metadata(filename).map_err(about)?.len();
    if len == 0 || len % 4 != 0 || len > IMAGE_LEN_MAX {
        let allowed = format!("a multiple of 4 bytes, at most {IMAGE_LEN_MAX}");
        return Err(Error::invalid("filename", format!("of a file of {len} bytes"), allowed));
    }
    std::fs::read(filename).map_err(about)
}

async fn download(admin: &Admin, image: &[u8]) -> Result<()> {
    for (index, piece) in image.chunks(PIECE_LEN).enumerate() {
        let mut command = Command::new(admin::FIRMWARE_IMAGE_DOWNLOAD);
        let dwords = |bytes: usize| u32::try_from(bytes / 4).unwrap_or(u32::MAX);
        command.dw[10] = dwords(piece.len()).saturating_sub(1);
        command.dw[11] = dwords(index * PIECE_LEN);
        let answer = admin.run("Firmware Image Download", command, Data::Out(piece.to_vec()));
        answer.await?.ok("firmware download")?;
    }
    let mut command = Command::new(admin::FIRMWARE_COMMIT);
    command.dw[10] = REPLACE_AND_ACTIVATE;
    admin.run("Firmware Commit", command, Data::None).await?.ok("firmware commit").map(drop)
}
