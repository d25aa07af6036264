//! Disks of this machine's kernel: /dev/nbdX over a socket pair. The kernel has one end. The other end is a connection
//! like any other. A lock for each device keeps its operations apart.

use crate::export::{Export, ExportConfig};
use crate::negotiate::Agreed;
use crate::netlink::{Attach, Netlink};
use crate::registry::{Registry, registry};
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{App, Error, Result, errno, thread, tracing};
use drivebay_spec_nbd::transmission::Framing;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Weak};

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

/// A token that the connection of a disk owns. The connection drops it when it ends, and the app thread then removes the disk, unless the
/// disk was stopped.
#[derive(Debug)]
pub struct Served {
    index: u32,
    export: Weak<Export>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let (index, export) = (self.index, Weak::clone(&self.export));
        if let Err(error) = thread::app().send(move || connection_ended(index, export)) {
            tracing::debug!("{}: the app thread has ended: {error}", device(index));
        }
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
        let message = "nbd device not found: no free /dev/nbdX; the kernel module nbd creates them";
        Error::new(errno::ENODEV, message)
    })
}

/// Whether the kernel has the device attached.
fn is_in_use(index: u32) -> bool {
    Path::new(&format!("/sys/block/nbd{index}/pid")).exists()
}

impl Registry {
    /// Attaches a bdev to the kernel as /dev/nbdX. Returns when the kernel can use the device. `[app thread]`
    ///
    /// # Errors
    /// `EBUSY` when the device is in use, `ENODEV` when there is no such bdev or the kernel has no nbd, `EPERM` when
    /// the bdev is claimed or the host may not attach devices.
    pub async fn start_disk(&self, app: &App, bdev: &str, index: u32) -> Result<()> {
        let _guard = self.locks.lock(&device(index), "start").await;
        if self.disks.borrow().contains_key(&index) || is_in_use(index) {
            return Err(Error::new(errno::EBUSY, format!("{} is in use", device(index))));
        }
        let config = ExportConfig {
            name: device(index),
            bdev: bdev.to_owned(),
            description: String::new(),
            is_read_only: false,
        };
        let goes = move |_: &App| bdev_goes(index);
        let export = Export::open(app, config, goes, move || bdev_resized(index))?;
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
        let served = Served { index, export: Arc::downgrade(export) };
        self.serve(stream, agreed, served).await?;
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
        let _guard = self.locks.lock(&device(index), "stop").await;
        if !self.disks.borrow().contains_key(&index) {
            return Err(Error::no_such_device());
        }
        self.end_disk(index, true).await
    }

    /// Removes a disk whose connection has ended, so that its bdev is free.
    async fn remove_ended(&self, index: u32, export: &Weak<Export>) -> Result<()> {
        let _guard = self.locks.lock(&device(index), "remove").await;
        let listed = self.disks.borrow().get(&index).map(|disk| Arc::as_ptr(&disk.export));
        if listed != Some(export.as_ptr()) {
            return Ok(()); // the disk was stopped
        }
        tracing::warn!("{} ends: the kernel detached it, or its connection failed", device(index));
        self.end_disk(index, is_in_use(index)).await
    }

    /// Tells the kernel the size of a disk.
    async fn resize_disk(&self, index: u32) -> Result<()> {
        let _guard = self.locks.lock(&device(index), "resize").await;
        let size = self.disks.borrow().get(&index).map(|disk| disk.export.size_bytes());
        let Some(size) = size else { return Ok(()) };
        let call = move || Netlink::open()?.resize(index, size);
        worker::run(format!("resize {}", device(index)), call).await?
    }

    /// Ends a disk, while the caller holds its lock. `is_attached`: whether to detach the device from the kernel.
    async fn end_disk(&self, index: u32, is_attached: bool) -> Result<()> {
        let detached = if is_attached {
            let call = move || Netlink::open()?.disconnect(index);
            worker::run(format!("detach {}", device(index)), call).await
        } else {
            Ok(Ok(()))
        };
        let export = self.disks.borrow_mut().remove(&index).map(|disk| disk.export);
        if let Some(export) = export {
            self.end_export(export).await?;
        }
        detached?
    }
}

/// The connection of a disk has ended.
fn connection_ended(index: u32, export: Weak<Export>) {
    let remove = async move {
        let Ok(registry) = registry() else { return };
        if let Err(error) = registry.remove_ended(index, &export).await {
            tracing::warn!("{}: {error}", device(index));
        }
    };
    match task::spawn("remove disk", remove) {
        Ok(task) => task.detach(),
        Err(error) => tracing::debug!("{} cannot be removed: {error}", device(index)),
    }
}

/// The size of a disk's bdev has changed.
fn bdev_resized(index: u32) {
    let resize = async move {
        let resized = async { registry()?.resize_disk(index).await }.await;
        if let Err(error) = resized {
            tracing::warn!("{} keeps its earlier size: {error}", device(index));
        }
    };
    match task::spawn("resize disk", resize) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("{} cannot be resized: {error}", device(index)),
    }
}

/// Stops a disk, because its bdev goes away.
fn bdev_goes(index: u32) {
    let stop = async move {
        tracing::warn!("{} stops, because its bdev is being removed", device(index));
        let stopped = async { registry()?.stop_disk(index).await }.await;
        // ENODEV: another call has stopped the disk.
        if let Err(error) = stopped
            && error.errno() != errno::ENODEV
        {
            tracing::warn!("{} has not stopped in order: {error}", device(index));
        }
    };
    match task::spawn("stop disk", stop) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("{} cannot be stopped: {error}", device(index)),
    }
}
