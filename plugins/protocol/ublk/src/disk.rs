//! Disks: devices of the kernel, each over a bdev.
//!
//! ```text
//!           add, set params, fetch, start
//!  nothing ──────────────────────────────▶ live ── the host is killed ──▶ quiesced
//!     ▲                                    │  ▲                              │
//!     └── stop, queues end, delete ────────┘  └── recover: fetch, go on ─────┘
//! ```
//!
//! The kernel keeps the requests of a quiesced device and sends those that the dead host had again. That is safe, because the
//! system ends a process's I/O before the process is gone (`docs/retries.md`).

use crate::queue::{DATA_MAX, Queues, SECTOR, Source};
use crate::target::{Active, Target, control, get};
use drivebay_ring::ublk::{
    Attributes, Control, DEPTH_MAX, Device, DeviceInfo, Params, State, feature,
};
use drivebay_sdk::bdev::{Event, Info, OpSet, open_export};
use drivebay_sdk::runtime::group::Weight;
use drivebay_sdk::runtime::{Resident, task, worker};
use drivebay_sdk::{App, Error, Result, errno, thread, tracing};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most queues of a disk.
pub const QUEUES_MAX: u16 = 32;
/// Most disks, unless the module's parameter `ublks_max` says otherwise.
const DISKS_MAX: usize = 64;
/// Longest discard and write of zeroes, in sectors.
const ZEROES_MAX: u32 = 1 << 22;
/// Largest block of a disk of the kernel, in bytes: a page.
const BLOCK_MAX: u32 = 4096;
/// How long a device may take to become quiesced after its server was killed.
const QUIESCE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at such a device.
const QUIESCE_PAUSE: Duration = Duration::from_millis(100);
/// Flags of devices whose servers do not use one buffer for each tag: zero copy, get data, user copy, zoned, registered buffers.
const OTHER_SERVERS: u64 = 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 11;

/// A disk.
#[derive(Debug)]
pub struct Disk {
    /// Name of the bdev.
    pub bdev: String,
    /// Number of queues.
    pub num_queues: u16,
    /// Number of entries of each queue. 0 until the kernel has reported it.
    pub depth: u16,
    /// Whether the disk did not start, and the kernel has not removed its device. Stopping it tries again.
    pub is_stuck: bool,
    /// The load of each queue on its thread.
    weights: Vec<Weight>,
}

/// The path of a device.
#[must_use]
pub fn path(id: u32) -> String {
    format!("/dev/ublkb{id}")
}

impl Target {
    /// Makes and starts a disk. Returns when the kernel can use it. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when there is no target or no such bdev, `EBUSY` when the number is in use, `EEXIST` when a killed host has left a
    /// device with that number, `EOPNOTSUPP` when there are too many disks, `EPERM` when the bdev is claimed.
    pub async fn start_disk(
        &self,
        app: &App,
        id: u32,
        bdev: &str,
        (num_queues, depth): (u16, u16),
    ) -> Result<()> {
        let _guard = self.locks.lock(&path(id), "start").await;
        let active = self.active()?;
        let source = self.list(app, id, bdev, (num_queues, depth))?;
        let started = self.bring_up(&active, id, &source, (num_queues, depth)).await;
        if started.is_err() {
            self.forget(id);
        }
        started
    }

    async fn bring_up(
        &self,
        active: &Active,
        id: u32,
        source: &Arc<Source>,
        (num_queues, depth): (u16, u16),
    ) -> Result<()> {
        let info = DeviceInfo {
            num_queues,
            depth,
            max_io_bytes: DATA_MAX,
            id,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            flags: feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE | feature::IOCTL_ENCODE,
            ..DeviceInfo::default()
        };
        let params = params(&source.info)?;
        let made = control(format!("making {}", path(id)), move |control| control.add(&info)).await;
        let info = made.map_err(|error| match error.errno() {
            errno::EEXIST => {
                let path = path(id);
                let why =
                    format!("{path} exists: if a killed host has left it, call ublk_recover_disk");
                Error::new(errno::EEXIST, why)
            }
            _ => error,
        })?;
        let setting = move |control: &mut Control| control.set_params(id, &params);
        let running = async {
            control(format!("describing {}", path(id)), setting).await?;
            let members = self.prepare_queues(active, &info, source).await?;
            begin_queues(info, &members).await?;
            control(format!("starting {}", path(id)), move |control| control.start(id)).await
        };
        self.or_take_down(active, id, running.await).await
    }

    /// Serves a device again whose host was killed. The kernel's requests go on. If this fails after the kernel has begun the
    /// recovery, the device is removed and its requests fail. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when there is no target, bdev or device, `EBUSY` when the number is in use or another process serves the device, `EINVAL`
    /// when the bdev has another size, `EOPNOTSUPP` for a device of a server of another kind.
    pub async fn recover_disk(&self, app: &App, id: u32, bdev: &str) -> Result<()> {
        let _guard = self.locks.lock(&path(id), "recover").await;
        let active = self.active()?;
        let source = self.list(app, id, bdev, (0, 0))?;
        let recovered = self.take_over(&active, id, &source).await;
        if recovered.is_err() {
            self.forget(id);
        }
        recovered
    }

    async fn take_over(&self, active: &Active, id: u32, source: &Arc<Source>) -> Result<()> {
        let expected = params(&source.info)?;
        let looking = move |control: &mut Control| {
            Ok::<_, std::io::Error>((control.info(id)?, control.size(id)?))
        };
        let (info, size) = control(format!("looking at {}", path(id)), looking).await?;
        if size != (expected.block_size, expected.num_sectors) {
            let why = format!(
                "{} has {} sectors and blocks of {} bytes, and the bdev has {} and {}; name the bdev that the disk had",
                path(id),
                size.1,
                size.0,
                expected.num_sectors,
                expected.block_size
            );
            return Err(Error::new(errno::EINVAL, why));
        }
        let is_ours = info.flags & OTHER_SERVERS == 0 && info.flags & feature::USER_RECOVERY != 0;
        if !is_ours || info.max_io_bytes > DATA_MAX || info.depth > DEPTH_MAX {
            let why = format!(
                "{} was made by a server of another kind; stop it with that server",
                path(id)
            );
            return Err(Error::new(errno::EOPNOTSUPP, why));
        }
        if let Some(disk) = self.disks.borrow_mut().get_mut(&id) {
            (disk.num_queues, disk.depth) = (info.num_queues, info.depth);
        }
        // Buffers and channels come first: if there is no memory for them, the recovery can be called again.
        let preparing = async {
            let members = self.prepare_queues(active, &info, source).await?;
            begin_recovery(id).await?;
            Ok::<_, Error>(members)
        };
        let members = match preparing.await {
            Ok(members) => members,
            Err(error) => {
                // If this fails, a thread has ended and has dropped its queues.
                let _ = end_queues(active, id).await;
                return Err(error);
            }
        };
        let running = async {
            begin_queues(info, &members).await?;
            control(format!("continuing {}", path(id)), move |control| control.end_recovery(id))
                .await
        };
        // Linux cannot begin another recovery if a queue was not served in this one, so a device that failed is removed.
        self.or_take_down(active, id, running.await).await
    }

    /// Opens a bdev and lists its disk, so that no other call takes the number.
    fn list(
        &self,
        app: &App,
        id: u32,
        bdev: &str,
        (num_queues, depth): (u16, u16),
    ) -> Result<Arc<Source>> {
        if self.disks.borrow().contains_key(&id) {
            return Err(Error::new(errno::EBUSY, format!("{} is in use", path(id))));
        }
        let max = disks_max();
        if self.disks.borrow().len() >= max {
            let why = format!(
                "there are {max} ublk disks, which is the limit (ublks_max of the module ublk_drv)"
            );
            return Err(Error::new(errno::EOPNOTSUPP, why));
        }
        let on_event = move |_: &App, event| match event {
            Event::Remove => bdev_goes(id),
            Event::Resize { num_blocks } => tracing::warn!(
                "{}: the bdev has {num_blocks} blocks now; the kernel uses the earlier size until the disk is started again",
                path(id)
            ),
            _ => {}
        };
        let (desc, info) = open_export(app, bdev, true, on_event)?;
        let (bdev, weights) = (bdev.to_owned(), Vec::new());
        let disk = Disk { bdev, num_queues, depth, is_stuck: false, weights };
        self.disks.borrow_mut().insert(id, disk);
        Ok(Arc::new(Source { desc, info }))
    }

    /// Prepares the queues of a device, each on the thread with the least load. Returns these threads, by queue.
    async fn prepare_queues(
        &self,
        active: &Active,
        info: &DeviceInfo,
        source: &Arc<Source>,
    ) -> Result<Vec<Resident<Queues>>> {
        let (id, depth) = (info.id, info.depth);
        let mut members = Vec::new();
        for index in 0..info.num_queues {
            let least = active.group.least_loaded();
            let (member, weight) =
                least.ok_or_else(|| Error::new(errno::EAGAIN, "there is no thread for queues"))?;
            let source = Arc::clone(source);
            let prepare =
                async move |queues: Rc<Queues>| queues.prepare((id, index), depth, &source);
            member.call(prepare)?.await??;
            members.push(member.clone());
            if let Some(disk) = self.disks.borrow_mut().get_mut(&id) {
                disk.weights.push(weight);
            }
        }
        Ok(members)
    }

    /// Stops a disk. What was written to it is on the bdev afterwards, except data that a mounted file system still caches.
    /// `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when there is no such disk, `ETIMEDOUT` when its I/O takes too long or a program has it open, or the kernel's error. A
    /// disk that has not stopped stays listed, so the call can be repeated.
    pub async fn stop_disk(&self, id: u32) -> Result<()> {
        let _guard = self.locks.lock(&path(id), "stop").await;
        let is_stuck = self.disks.borrow().get(&id).map(|disk| disk.is_stuck);
        let is_stuck = is_stuck.ok_or_else(Error::no_such_device)?;
        let active = self.active()?;
        if !is_stuck {
            write_back(id).await?;
        }
        take_down(&active, id).await?;
        self.disks.borrow_mut().remove(&id);
        Ok(())
    }

    /// Removes a disk that did not start from the list, unless it is stuck.
    fn forget(&self, id: u32) {
        self.disks.borrow_mut().retain(|&listed, disk| listed != id || disk.is_stuck);
    }

    /// Removes a device from the kernel when it could not be started. If that fails, the disk is stuck.
    async fn or_take_down(&self, active: &Active, id: u32, started: Result<()>) -> Result<()> {
        if started.is_err()
            && let Err(error) = take_down(active, id).await
        {
            tracing::error!("{error}; call ublk_stop_disk to try again");
            if let Some(disk) = self.disks.borrow_mut().get_mut(&id) {
                disk.is_stuck = true;
            }
        }
        started
    }
}

/// Opens a device, and serves each queue on the thread that has prepared it.
async fn begin_queues(info: DeviceInfo, members: &[Resident<Queues>]) -> Result<()> {
    let opened = worker::run("open ublk device", move || Device::open(info));
    let device = Arc::new(opened.await?.map_err(|error| {
        Error::new(
            error.raw_os_error().unwrap_or(errno::EIO),
            format!("/dev/ublkc{}: {error}", info.id),
        )
    })?);
    for (index, member) in (0..).zip(members) {
        let device = Arc::clone(&device);
        let begin = async move |queues: Rc<Queues>| queues.begin(&device, index);
        member.call(begin)?.await??;
    }
    Ok(())
}

/// Waits until the queues of a device have ended.
async fn end_queues(active: &Active, id: u32) -> Result<()> {
    active.group.on_each(async move |queues: Rc<Queues>| queues.end(id).await).await.map(drop)
}

/// Writes the data back that the kernel has cached for a disk. If a write fails, its data is lost, and the disk can stop.
///
/// # Errors
/// `ETIMEDOUT`.
async fn write_back(id: u32) -> Result<()> {
    let doing = format!("writing cached data of {} back", path(id));
    match control(doing, move |control| control.sync(id)).await {
        Err(error) if error.errno() != errno::ETIMEDOUT => {
            tracing::warn!("{error}; the disk stops without this data");
            Ok(())
        }
        result => result,
    }
}

/// Stops a device, waits until its queues have ended, and removes it.
async fn take_down(active: &Active, id: u32) -> Result<()> {
    let stopped = control(format!("stopping {}", path(id)), move |control| control.stop(id));
    unless_gone(stopped.await)?;
    end_queues(active, id).await?;
    let removed = control(format!("removing {}", path(id)), move |control| control.delete(id));
    unless_gone(removed.await).map_err(|error| match error.errno() {
        errno::ETIMEDOUT => {
            let path = path(id);
            let why = format!(
                "{path} has stopped, but a program has it open: unmount or close it, then call ublk_stop_disk again"
            );
            Error::new(errno::ETIMEDOUT, why)
        }
        _ => error,
    })
}

/// Ignores that the kernel has no such device: an earlier attempt, which took too long, has removed it after all.
fn unless_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == errno::ENODEV => Ok(()),
        result => result,
    }
}

/// Begins the recovery of a device, as soon as its last server is gone.
async fn begin_recovery(id: u32) -> Result<()> {
    let limit_ns = u64::try_from(QUIESCE_LIMIT.as_nanos()).unwrap_or(u64::MAX);
    let end_ns = thread::now_ns().saturating_add(limit_ns);
    loop {
        let trying = move |control: &mut Control| match control.info(id)?.state() {
            State::Quiesced => control.start_recovery(id),
            _ => Err(std::io::Error::from_raw_os_error(errno::EBUSY)),
        };
        match control(format!("recovering {}", path(id)), trying).await {
            Err(error) if error.errno() == errno::EBUSY && thread::now_ns() < end_ns => {
                task::sleep(QUIESCE_PAUSE).await;
            }
            Err(error) if error.errno() == errno::EBUSY => {
                let why = format!(
                    "{} is not free: another process serves it, or it was stopped",
                    path(id)
                );
                return Err(Error::new(errno::EBUSY, why));
            }
            result => return result,
        }
    }
}

/// The properties of a disk over a bdev.
///
/// # Errors
/// `EINVAL` for blocks that the kernel does not support.
fn params(info: &Info) -> Result<Params> {
    let block_size = info.block_size();
    if !block_size.is_power_of_two() || !(SECTOR..=BLOCK_MAX).contains(&block_size) {
        let given = format!("with blocks of {block_size} bytes");
        return Err(Error::invalid("bdev_name", given, "blocks of 512, 1024, 2048 or 4096 bytes"));
    }
    let is_writable = !info.is_read_only();
    let can = |op| is_writable && info.ops().contains(op);
    let max = |op| if can(op) { ZEROES_MAX } else { 0 };
    Ok(Params {
        attributes: Attributes {
            is_read_only: !is_writable,
            has_write_cache: info.has_write_cache(),
        },
        block_size,
        phys_block_size: info.raw().phys_block_size.clamp(block_size, BLOCK_MAX),
        max_sectors: DATA_MAX / SECTOR,
        num_sectors: info.geometry().size_bytes() / u64::from(SECTOR),
        max_discard_sectors: max(OpSet::UNMAP),
        max_zeroes_sectors: max(OpSet::WRITE_ZEROES),
    })
}

/// Most disks that the kernel's module allows.
fn disks_max() -> usize {
    let text = std::fs::read_to_string("/sys/module/ublk_drv/parameters/ublks_max");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DISKS_MAX)
}

/// Stops a disk, because its bdev goes away.
fn bdev_goes(id: u32) {
    let stop = async move {
        tracing::warn!("{} stops, because its bdev is being removed", path(id));
        let stopped = async { get()?.stop_disk(id).await }.await;
        // ENODEV: another call has stopped the disk.
        if let Err(error) = stopped
            && error.errno() != errno::ENODEV
        {
            tracing::error!("{} has not stopped in order: {error}", path(id));
        }
    };
    match task::spawn("stop disk", stop) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("{} cannot be stopped: {error}", path(id)),
    }
}
