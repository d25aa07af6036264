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

/// How long a command or login may take when `bdev_iscsi_set_options` does not say.
const TIMEOUT_SEC: u64 = 30;

/// The plugin's state.
pub(crate) struct Known {
    /// How long a command or login of a new disk may take, in seconds; 0 = forever.
    pub(crate) timeout_sec: Cell<u64>,
    disks: RefCell<BTreeMap<String, Arc<Disk>>>,
}

/// Makes the state. `[app thread]`
pub(crate) fn init() -> Result<()> {
    APP.get_or_init(|| Known { timeout_sec: Cell::new(TIMEOUT_SEC), disks: RefCell::default() })
        .map(drop)
}

/// The state. `[app thread]`
pub(crate) fn get() -> Result<Rc<Known>> {
    APP.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

/// The size of a disk may have changed: it is asked. `[any thread]`
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
        Ok(unit) => App::here(|app| find::<IscsiBdev>(&disk.name)?.resize(app, unit.num_blocks)),
        Err(error) => return warn!("{}: {}", disk.name, error.message()),
    };
    if let Err(error) = resized.and_then(|resized| resized) {
        warn!("{}: {}", disk.name, error.message());
    }
}

impl Known {
    /// Logs in, and puts the unit on the bus.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken; what the login says.
    pub(crate) async fn create(
        &self,
        name: String,
        initiator: String,
        url: String,
    ) -> Result<String> {
        let parsed: Url = url.parse()?;
        if self.disks.borrow().contains_key(&name) {
            return Err(Error::new(errno::EEXIST, format!("there is a bdev {name} already")));
        }
        let seconds = self.timeout_sec.get();
        let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        let place = Place { url: parsed, initiator, timeout };
        let isids = Isids::new()?;
        let unit = probe(&place, isids.next()).await?;
        let initiator = place.initiator.clone();
        let disk = Arc::new(Disk { name: name.clone(), place, unit, isids });
        let bdev = IscsiBdev::new(Arc::clone(&disk))?;
        let params = json!({"name": name, "initiator_iqn": initiator, "url": url});
        let name = App::here(|app| register(app, bdev, "bdev_iscsi_create", params))??;
        self.disks.borrow_mut().insert(name.clone(), disk);
        Ok(name)
    }

    /// Takes a disk off the bus; `done` when it is gone.
    ///
    /// # Errors
    /// `ENODEV` when there is no such disk.
    pub(crate) fn delete(&self, name: &str, done: impl FnOnce(Result<()>) + 'static) -> Result<()> {
        let missing = || Error::no_device_named(name);
        self.disks.borrow_mut().remove(name).ok_or_else(missing)?;
        let found = find::<IscsiBdev>(name)?;
        App::here(|app| found.unregister(app, move |_, gone| done(gone)))
    }
}

/// Deletes all disks; `done` when they are gone. `[app thread]`
pub(crate) fn delete_all(done: impl FnOnce() + 'static) {
    let Ok(known) = get() else { return done() };
    let names: Vec<String> = known.disks.borrow().keys().cloned().collect();
    let all = Rc::new(RefCell::new(Some(done)));
    let left = Rc::new(Cell::new(names.len() + 1));
    let one_less = move || {
        left.set(left.get() - 1);
        if left.get() == 0
            && let Some(done) = all.take()
        {
            done();
        }
    };
    for name in names {
        let gone = one_less.clone();
        if let Err(error) = known.delete(&name, move |_| gone()) {
            warn!("{name}: {}", error.message());
            one_less();
        }
    }
    one_less();
}
