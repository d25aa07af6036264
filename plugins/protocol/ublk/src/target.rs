//! The target: the threads that serve queues, and the disks. All of it is on the app thread.

use crate::cores;
use crate::disk::Disk;
use crate::queue::Queues;
use drivebay_ring::ublk::{Control, feature};
use drivebay_sdk::runtime::lock::Locks;
use drivebay_sdk::runtime::{Group, OnApp, worker};
use drivebay_sdk::{Error, Result, errno, tracing};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

/// Features of the driver that every disk uses.
const NEEDED: u64 = feature::IOCTL_ENCODE | feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;

/// The errno value of Linux for a file that the process may not open.
const EACCES: i32 = 13;

static TARGET: OnApp<Target> = OnApp::new();

/// The state of the plugin.
#[derive(Debug, Default)]
pub struct Target {
    active: RefCell<Option<Rc<Active>>>,
    /// Disks by the number of their device, also those that start or stop.
    pub disks: RefCell<BTreeMap<u32, Disk>>,
    /// Allow one operation at a time on the target and on each disk.
    pub locks: Locks,
}

/// A target that was created.
#[derive(Debug)]
pub struct Active {
    /// The threads that serve queues.
    pub group: Group<Queues>,
    /// The mask of their cores; empty = all cores.
    pub cpumask: String,
}

/// Creates the state of the plugin, without a target. `[app thread]`
///
/// # Errors
/// `EPERM` on another thread.
pub fn init() -> Result<()> {
    TARGET.get_or_init(Target::default).map(drop)
}

/// Returns the state of the plugin. `[app thread]`
///
/// # Errors
/// `EPERM` on another thread.
pub fn get() -> Result<Rc<Target>> {
    TARGET.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

/// Runs calls of the control device on a worker. `doing` is the text of errors, such as "starting /dev/ublkb0".
///
/// # Errors
/// The kernel's error. For a kernel without ublk, the text says what to do.
pub async fn control<T: Send + 'static>(
    doing: String,
    calls: impl FnOnce(&mut Control) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let of_worker = doing.clone();
    worker::run(doing, move || {
        let mut control = Control::open().map_err(|error| no_control(&error))?;
        calls(&mut control).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(errno::EIO);
            Error::new(errno, format!("{of_worker}: {error}"))
        })
    })
    .await?
}

fn no_control(error: &io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(errno::EIO);
    let why = match errno {
        errno::ENOENT | errno::ENODEV => {
            "this kernel has no ublk: /dev/ublk-control does not exist; load its module (modprobe ublk_drv), of Linux 6.5 or later"
                .to_owned()
        }
        errno::EPERM | EACCES => "the host may not use /dev/ublk-control or io_uring: it needs CAP_SYS_ADMIN, and kernel.io_uring_disabled = 0".to_owned(),
        _ => format!("/dev/ublk-control: {error}"),
    };
    Error::new(errno, why)
}

impl Target {
    /// Creates the target.
    ///
    /// # Errors
    /// `EBUSY` when it exists, `EINVAL` for a wrong mask, `ENOENT` when the kernel has no ublk, `EOPNOTSUPP` when its ublk is too old.
    pub async fn create(&self, cpumask: String) -> Result<()> {
        let _guard = self.locks.lock("target", "create").await;
        if self.active.borrow().is_some() {
            return Err(Error::new(errno::EBUSY, "the ublk target exists already"));
        }
        let cores = cores::of_mask(&cpumask)?;
        let too_old = "the ublk of this kernel is too old: it needs user recovery and numbered commands, of Linux 6.5 or later";
        let features = control("reading the features of ublk".to_owned(), Control::features).await;
        let features = features.map_err(|error| match error.errno() {
            errno::EOPNOTSUPP | errno::EINVAL => Error::new(errno::EOPNOTSUPP, too_old),
            _ => error,
        })?;
        if features & NEEDED != NEEDED {
            return Err(Error::new(errno::EOPNOTSUPP, too_old));
        }
        let group = Group::start("ublk_poll_group", cores, |_| Queues::default())?;
        *self.active.borrow_mut() = Some(Rc::new(Active { group, cpumask }));
        Ok(())
    }

    /// Stops all disks and removes the target. If a disk cannot be stopped, the others stop nevertheless, and the target stays.
    ///
    /// # Errors
    /// `ENOENT` when there is no target, or why the first of these disks cannot be stopped.
    pub async fn destroy(&self) -> Result<()> {
        let _guard = self.locks.lock("target", "destroy").await;
        if self.active.borrow().is_none() {
            return Err(Error::new(errno::ENOENT, "there is no ublk target"));
        }
        let (mut result, mut failed): (Result<()>, _) = (Ok(()), BTreeSet::<u32>::new());
        loop {
            // A disk may start while another one stops, so look again each time.
            let next = self.disks.borrow().keys().find(|&id| !failed.contains(id)).copied();
            let Some(id) = next else { break };
            let stopped = self.stop_disk(id).await;
            // A disk that is no longer listed has gone meanwhile.
            if stopped.is_err() && self.disks.borrow().contains_key(&id) {
                failed.insert(id);
                result = result.and(stopped);
            }
        }
        result?;
        let active = self.active.borrow_mut().take();
        if let Some(Active { group, .. }) = active.and_then(Rc::into_inner) {
            group.end().await;
        }
        Ok(())
    }

    /// The target.
    ///
    /// # Errors
    /// `ENODEV` when it was not created.
    pub fn active(&self) -> Result<Rc<Active>> {
        let active = self.active.borrow().clone();
        active.ok_or_else(|| {
            Error::new(errno::ENODEV, "there is no ublk target: call ublk_create_target first")
        })
    }

    /// Ends everything, before the plugin stops.
    pub async fn end(&self) {
        if self.active.borrow().is_some()
            && let Err(error) = self.destroy().await
        {
            tracing::error!("ublk cannot stop in order: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_cannot_use_the_driver_says_what_it_needs() {
        for (errno, needed) in [
            (errno::ENOENT, "modprobe ublk_drv"),
            (errno::ENODEV, "modprobe ublk_drv"),
            (errno::EPERM, "CAP_SYS_ADMIN"),
            (EACCES, "CAP_SYS_ADMIN"),
            (errno::EIO, "/dev/ublk-control"),
        ] {
            let error = no_control(&io::Error::from_raw_os_error(errno));
            assert_eq!(error.errno(), errno);
            assert!(error.message().contains(needed), "{error}");
        }
    }
}
