//! Disks of this machine's kernel: /dev/nbdX over a socket pair. The kernel has one end. The other end is a connection
//! like any other.

use crate::export::{Export, ExportConfig};
use crate::negotiate::Agreed;
use crate::netlink::{Attach, Netlink};
use crate::registry::{self, Registry, registry};
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{App, Error, Result, errno, tracing};
use drivebay_spec_nbd::transmission::Framing;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// A disk of the kernel.
#[derive(Debug)]
pub struct Disk {
    export: Arc<Export>,
}

impl Disk {
    /// Name of the bdev.
    #[must_use]
    pub fn bdev(&self) -> &str {
        &self.export.config().bdev
    }
}

/// The path of a device.
#[must_use]
pub fn device(index: u32) -> String {
    format!("/dev/nbd{index}")
}

/// Finds the number of a device from its path.
///
/// # Errors
/// `ENODEV` for any other path.
pub fn index(device: &str) -> Result<u32> {
    let digits = device.strip_prefix("/dev/nbd").filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let message =
            format!("illegal nbd device {device}; allowed: /dev/nbd0, /dev/nbd1 and so on");
        Error::new(errno::ENODEV, message)
    })
}

/// Finds the first device that nobody uses.
///
/// # Errors
/// `ENODEV` when no device is free.
pub fn free_index() -> Result<u32> {
    let registry = registry()?;
    let is_there = |index: &u32| Path::new(&device(*index)).exists();
    let is_free = |index: &u32| !registry.disks.borrow().contains_key(index) && !is_in_use(*index);
    (0..).take_while(is_there).find(is_free).ok_or_else(|| {
        let message = "nbd device not found: no free /dev/nbdX; the kernel module nbd makes them";
        Error::new(errno::ENODEV, message)
    })
}

/// Whether the kernel has the device attached.
fn is_in_use(index: u32) -> bool {
    Path::new(&format!("/sys/block/nbd{index}/pid")).exists()
}

impl Registry {
    /// Attaches a bdev to the kernel as /dev/nbdX. `[app thread]`
    ///
    /// # Errors
    /// `EBUSY` when the device is in use, `ENODEV` when there is no such bdev or the kernel has no nbd, `EPERM` when
    /// the bdev is claimed or the host may not attach devices.
    pub async fn start_disk(&self, app: &App, bdev: &str, index: u32) -> Result<()> {
        if self.disks.borrow().contains_key(&index) || is_in_use(index) {
            return Err(Error::new(errno::EBUSY, format!("{} is in use", device(index))));
        }
        let config = ExportConfig {
            name: device(index),
            bdev: bdev.to_owned(),
            description: String::new(),
            is_read_only: false,
        };
        let export = Export::open(app, config, move |_| bdev_goes(index))?;
        // Listed before the kernel attaches the device, so that no other call takes it meanwhile.
        self.disks.borrow_mut().insert(index, Disk { export: Arc::clone(&export) });
        let attached = self.attach(&export, index).await;
        if attached.is_err() {
            self.disks.borrow_mut().remove(&index);
            self.end_export(export).await?;
        }
        attached
    }

    async fn attach(&self, export: &Arc<Export>, index: u32) -> Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(std::io::Error::from)?;
        let agreed = Agreed {
            export: Arc::downgrade(export),
            framing: Framing::Simple,
            has_block_status: false,
        };
        let stream = Stream::from_fd(ours)?;
        // The kernel reads partitions as soon as it has the socket, so our end starts first.
        registry::on_a_thread(move |share, weight| {
            if let Err(error) = share.serve(stream, agreed, weight) {
                tracing::error!("{} is not served: {error}", device(index));
            }
        })?;
        let attach = Attach {
            index,
            size: export.size_bytes(),
            block_size: export.block_size(),
            flags: export.flags(),
        };
        let call = move || Netlink::open()?.connect(&attach, kernels.as_fd());
        worker::run(format!("attach {}", device(index)), call).await??;
        Ok(())
    }

    /// Detaches a device from the kernel. What the kernel has written is on the bdev afterwards. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when the device is not ours, or the kernel's error.
    pub async fn stop_disk(&self, index: u32) -> Result<()> {
        if !self.disks.borrow().contains_key(&index) {
            return Err(Error::no_such_device());
        }
        let call = move || Netlink::open()?.disconnect(index);
        let detached = worker::run(format!("detach {}", device(index)), call).await;
        let export = self.disks.borrow_mut().remove(&index).map(|disk| disk.export);
        if let Some(export) = export {
            self.end_export(export).await?;
        }
        detached?
    }
}

/// Stops a disk, because its bdev goes away.
fn bdev_goes(index: u32) {
    let stop = async move {
        tracing::warn!("{} stops: its bdev goes away", device(index));
        let stopped = async { registry()?.stop_disk(index).await }.await;
        if let Err(error) = stopped {
            tracing::debug!("{}: {error}", device(index));
        }
    };
    match task::spawn("stop disk", stop) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("{} cannot be stopped: {error}", device(index)),
    }
}
