//! The disks, on the app thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_sdk::bdev::{find, register};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::json;

use crate::bdev::IscsiBdev;
use crate::disk::{Disk, Isids, Place};
use crate::probe::probe;
use crate::url::Url;

static APP: OnApp<Known> = OnApp::new();

/// Time limit of a command or login without `bdev_iscsi_set_options`, in seconds.
const TIMEOUT_SEC: u64 = 30;

/// The plugin's state.
pub(crate) struct Known {
    /// Time limit of a command or login of a new disk, in seconds; 0 = no limit.
    pub(crate) timeout_sec: Cell<u64>,
    disks: RefCell<BTreeMap<String, Arc<Disk>>>,
}

/// Creates the plugin's state. `[app thread]`
pub(crate) fn init() -> Result<()> {
    APP.get_or_init(|| Known { timeout_sec: Cell::new(TIMEOUT_SEC), disks: RefCell::default() })
        .map(drop)
}

/// Returns the plugin's state. `[app thread]`
pub(crate) fn get() -> Result<Rc<Known>> {
    APP.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

/// Asks a disk whose size may have changed, and resizes its bdev. `[any thread]`
pub(crate) fn size_changed(name: &str) {
    let name = name.to_owned();
    if let Some(app) = APP.handle() {
        app.send(move |known| {
            let disk = known.disks.borrow().get(&name).cloned();
            let Some(disk) = disk else { return };
            match task::spawn("iscsi size", follow_size(disk)) {
                Ok(task) => task.detach(),
                Err(error) => warn!("{error}"),
            }
        });
    }
}

async fn follow_size(disk: Arc<Disk>) {
    let resized = match probe(&disk.place, disk.isids.next()).await {
        Ok(unit) if !disk.unit.is_same(&unit) => {
            return warn!("{}: another unit has this LUN, so the bdev keeps its size", disk.name);
        }
        Ok(unit) => App::here(|app| find::<IscsiBdev>(&disk.name)?.resize(app, unit.num_blocks)),
        Err(error) => return warn!("{}: {}", disk.name, error.message()),
    };
    if let Err(error) = resized.and_then(|resized| resized) {
        warn!("{}: {}", disk.name, error.message());
    }
}

impl Known {
    /// Logs in, and registers the unit as a bdev. Returns the bdev's name.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, or the errors of [`probe`].
    pub(crate) async fn create(
        &self,
        name: String,
        initiator: String,
        url: String,
    ) -> Result<String> {
        let parsed: Url = url.parse()?;
        if self.disks.borrow().contains_key(&name) {
            return Err(Error::new(
                errno::EEXIST,
                format!("name '{name}': an iSCSI bdev has that name"),
            ));
        }
        if parsed.has_short_secret() {
            warn!(
                "{name}: a CHAP secret has fewer than 12 bytes; choose a longer one: anyone who records a login can guess a short secret"
            );
        }
        let seconds = self.timeout_sec.get();
        let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        let place = Place { url: parsed, initiator, timeout };
        let isids = Isids::new()?;
        let unit = probe(&place, isids.next()).await?;
        let initiator = place.initiator.clone();
        let disk = Arc::new(Disk::new(name.clone(), place, unit, isids));
        let bdev = IscsiBdev::new(Arc::clone(&disk))?;
        let params = json!({"name": name, "initiator_iqn": initiator, "url": url});
        let name = App::here(|app| register(app, bdev, "bdev_iscsi_create", params))??;
        self.disks.borrow_mut().insert(name.clone(), disk);
        Ok(name)
    }

    /// Deletes a disk, and waits until its bdev is gone. I/O that cannot end soon fails.
    ///
    /// # Errors
    /// `ENODEV` when there is no such disk.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let disk = self.disks.borrow_mut().remove(name);
        disk.ok_or_else(|| Error::no_device_named(name))?.end();
        let bdev = find::<IscsiBdev>(name)?;
        let (done, gone) = task::oneshot::channel();
        App::here(|app| bdev.unregister(app, move |_, result| drop(done.send(result))))?;
        gone.await.map_err(|_| Error::new(errno::ECANCELED, "the host is shutting down"))?
    }

    /// Deletes all disks, and waits until their bdevs are gone.
    pub(crate) async fn delete_all(&self) {
        let names: Vec<String> = self.disks.borrow().keys().cloned().collect();
        let ends = task::join_all(names.iter().map(|name| self.delete(name))).await;
        for (name, end) in names.iter().zip(ends) {
            if let Err(error) = end {
                warn!("{name}: {}", error.message());
            }
        }
    }
}
