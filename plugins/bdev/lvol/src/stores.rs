//! The open stores. They live on the app thread, which is the metadata thread of all of them.

use crate::base::BaseDisk;
use crate::examine::base_removed;
use crate::map::Shared;
use crate::requests::Requests;
use drivebay_blobstore::spec::lvol;
use drivebay_blobstore::{BlobId, Error as StoreError, Info, NewStoreOptions};
use drivebay_blobstore::{Store, StoreInfo, Unused};
use drivebay_sdk::Stopping;
use drivebay_sdk::bdev::{Claim, Desc, Event, Space, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::task;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) static STORES: OnApp<RefCell<Vec<Rc<LvStore>>>> = OnApp::new();

/// An open store with its volumes.
#[derive(Debug)]
pub(crate) struct LvStore {
    pub(crate) store: Store<BaseDisk>,
    pub(crate) base_name: String,
    pub(crate) uuid: String,
    pub(crate) desc: Arc<Desc>,
    pub(crate) maps: RefCell<BTreeMap<BlobId, Arc<Shared>>>,
    /// Volumes on the bus, with their names there.
    pub(crate) on_bus: RefCell<BTreeMap<BlobId, String>>,
    /// Volumes that could not be put on the bus, with the last error. It is empty if only their parent outside of the
    /// store is missing.
    pub(crate) degraded: RefCell<BTreeMap<BlobId, String>>,
    /// The open requests of each volume's channels.
    pub(crate) requests: RefCell<BTreeMap<BlobId, Requests>>,
    /// Clusters that the store is taking away from a volume.
    pub(crate) releasing: RefCell<BTreeMap<BlobId, Vec<u32>>>,
    /// Clusters that become free after all earlier I/O to these blocks of the volume has ended.
    pub(crate) unused: RefCell<Vec<(BlobId, Vec<Range>, Unused)>>,
    pub(crate) is_recycling: Cell<bool>,
    /// Set while it is closed or destroyed: nothing new begins.
    pub(crate) is_ending: Cell<bool>,
    /// The highest threshold of [`FILL_PERCENT`] that an event has reported; 0 = none.
    fill: Cell<u32>,
    /// Its clusters, for the bdevs of its volumes.
    pub(crate) pool: Arc<Pool>,
}

/// The clusters of a store that are for data, and the free ones among them. `[any thread]`
#[derive(Debug, Default)]
pub(crate) struct Pool(AtomicU64);

impl Pool {
    fn set(&self, info: &StoreInfo) {
        let both = u64::from(info.total_data_clusters) << 32 | u64::from(info.free_clusters);
        self.0.store(both, Ordering::Relaxed);
    }

    /// Its size in blocks.
    pub(crate) fn space(&self, blocks_per_cluster: u64) -> Space {
        let both = self.0.load(Ordering::Relaxed);
        let blocks = |clusters: u64| clusters * blocks_per_cluster;
        Space { total: blocks(both >> 32), free: blocks(both & u64::from(u32::MAX)) }
    }
}

/// Percentages of used clusters that an event reports.
const FILL_PERCENT: [u32; 4] = [80, 90, 95, 100];
/// An event reports a threshold again only after usage was lower than it by more than this many percent.
const FILL_SLACK: u32 = 5;

/// All stores. `[app thread]`
pub(crate) fn all() -> Vec<Rc<LvStore>> {
    STORES.get().map(|stores| stores.borrow().clone()).unwrap_or_default()
}

/// Turns an error of the store into one of the control plane.
pub(crate) fn error(error: StoreError) -> Error {
    Error::new(error.errno, error.message)
}

/// The volume with that UUID, bus name or `store/volume` alias. `[app thread]`
///
/// # Errors
/// `ENODEV`.
pub(crate) fn find(name: &str) -> Result<(Rc<LvStore>, Info)> {
    for store in all() {
        let of_store = store.info()?.name;
        for info in store.store.volumes() {
            let alias = format!("{of_store}/{}", info.name);
            if alias == name || store.bdev_name(&info) == name {
                return Ok((store, info));
            }
        }
    }
    Err(Error::no_such_device())
}

/// Makes a store on a bdev. `[app thread]`
///
/// # Errors
/// `ENODEV`, `EPERM` for a bdev in use, `EEXIST` for a name in use, `EINVAL`, or the bdev's error.
pub(crate) async fn create(base: &str, options: &NewStoreOptions) -> Result<Rc<LvStore>> {
    if all().iter().any(|store| store.info().is_ok_and(|info| info.name == options.name)) {
        return Err(Error::new(errno::EEXIST, format!("there is a store named {}", options.name)));
    }
    let desc = open_base(base)?;
    let disk = BaseDisk::new(&desc)?;
    let store = Store::create(disk, options).await.map_err(error)?;
    add(store, desc)
}

/// Opens the store on a bdev, if there is one. `[app thread]`
pub(crate) async fn load(base: &str) -> Result<Option<Rc<LvStore>>> {
    let looking = Arc::new(App::here(|app| open(app, base, false, |_, _| {}))??);
    let is_store = holds_store(&looking).await;
    drop(looking);
    if !is_store {
        return Ok(None);
    }
    let desc = open_base(base)?;
    let disk = BaseDisk::new(&desc)?;
    let store = Store::load(disk).await.map_err(error)?;
    for note in store.notes() {
        info!("bdev {base}: {note}");
    }
    let store = add(store, desc)?;
    store.publish_all();
    Ok(Some(store))
}

async fn holds_store(desc: &Arc<Desc>) -> bool {
    let Ok(disk) = BaseDisk::new(desc) else {
        return false;
    };
    let first = drivebay_blobstore::Disk::read(&disk, 0, 4096).await.unwrap_or_default();
    // `docs/formats/lvstore.md` has the place of the type.
    first.starts_with(b"SPDKBLOB") && first.get(56..72) == Some(&lvol::BSTYPE[..])
}

fn open_base(name: &str) -> Result<Arc<Desc>> {
    let of_event = name.to_owned();
    App::here(|app| {
        let desc = open(app, name, true, move |_, event| {
            if event == Event::Remove {
                base_removed(&of_event);
            }
        })?;
        desc.info()?.require_no_zones()?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        Ok(Arc::new(desc))
    })?
}

fn add(store: Store<BaseDisk>, desc: Arc<Desc>) -> Result<Rc<LvStore>> {
    let no_name = || Error::new(errno::EINVAL, "the store has no name or UUID");
    let info = store.info().ok_or_else(no_name)?;
    let base = desc.info()?;
    if info.block_size != base.block_size() {
        let message = format!(
            "the store has blocks of {} bytes, but bdev {} has blocks of {}",
            info.block_size,
            base.name(),
            base.block_size()
        );
        return Err(Error::new(errno::EINVAL, message));
    }
    let same = |other: &Rc<LvStore>| {
        other.uuid == info.uuid || other.info().is_ok_and(|other| other.name == info.name)
    };
    if let Some(other) = all().iter().find(|other| same(other)) {
        let message = format!(
            "bdev {} holds a store of the same name or UUID as bdev {}: {} {}",
            base.name(),
            other.base_name,
            info.name,
            info.uuid
        );
        return Err(Error::new(errno::EEXIST, message));
    }
    let store = Rc::new(LvStore {
        store,
        base_name: base.name().to_owned(),
        uuid: info.uuid,
        desc,
        maps: RefCell::default(),
        on_bus: RefCell::default(),
        degraded: RefCell::default(),
        requests: RefCell::default(),
        releasing: RefCell::default(),
        unused: RefCell::default(),
        is_recycling: Cell::new(false),
        is_ending: Cell::new(false),
        fill: Cell::new(0),
        pool: Arc::default(),
    });
    store.watch_fill();
    STORES.get_or_init(RefCell::default)?.borrow_mut().push(Rc::clone(&store));
    Ok(store)
}

/// Closes all stores cleanly, then lets the plugin end. A store on a volume of another store was opened later, so it is
/// closed first.
pub(crate) fn close_all(stopping: Stopping) {
    let close = async move {
        while let Some(store) = newest() {
            store.close().await;
        }
        drop(stopping);
    };
    if let Ok(task) = task::spawn("lvol stop", close) {
        task.detach();
    }
}

fn newest() -> Option<Rc<LvStore>> {
    STORES.get()?.borrow().last().cloned()
}

impl LvStore {
    /// The store's identity and size.
    ///
    /// # Errors
    /// `ENODEV` if it has lost its name.
    pub(crate) fn info(&self) -> Result<StoreInfo> {
        self.store.info().ok_or_else(Error::no_such_device)
    }

    /// A volume's name on the bus: its UUID, or the substitute for it in old stores.
    pub(crate) fn bdev_name(&self, info: &Info) -> String {
        let raw = drivebay_blobstore::spec::BlobId::to_raw(Some(info.id));
        info.uuid.clone().unwrap_or_else(|| format!("{}_{raw}", self.uuid))
    }

    /// Updates [`pool`](Self::pool), and appends an event `lvs_fill` with the store's name and the percentage when usage has reached
    /// a threshold. Callers call this after each change of the used clusters. `[app thread]`
    pub(crate) fn watch_fill(&self) {
        let Ok(info) = self.info() else { return };
        self.pool.set(&info);
        let used = u64::from(info.total_data_clusters - info.free_clusters) * 100;
        let used = used / u64::from(info.total_data_clusters.max(1));
        let passed = FILL_PERCENT.into_iter().filter(|percent| used >= u64::from(*percent));
        let (passed, before) = (passed.max().unwrap_or(0), self.fill.get());
        if passed > before {
            self.fill.set(passed);
            drivebay_sdk::notify::notify("lvs_fill", &format!("{} {passed}", info.name));
        } else if used + u64::from(FILL_SLACK) < u64::from(before) {
            self.fill.set(passed);
        }
    }

    /// Whether the volume's parent outside of the store is missing.
    pub(crate) fn is_degraded(&self, info: &Info) -> bool {
        info.faults.is_empty() && !self.on_bus.borrow().contains_key(&info.id)
    }

    /// Takes all volumes off the bus and forgets the store.
    pub(crate) async fn end(&self) {
        self.is_ending.set(true);
        let ids: Vec<BlobId> = self.on_bus.borrow().keys().copied().collect();
        for id in ids {
            if let Err(error) = self.unpublish(id).await {
                warn!("a volume of store {}: {error}", self.uuid);
            }
        }
        if let Some(stores) = STORES.get() {
            stores.borrow_mut().retain(|store| store.uuid != self.uuid);
        }
    }

    /// Takes all volumes off the bus and closes the store cleanly.
    pub(crate) async fn close(&self) {
        self.end().await;
        if let Err(error) = self.store.close().await {
            warn!("store {} is not closed cleanly: {error}", self.uuid);
        }
    }
}

/// A new UUID from the kernel.
///
/// # Errors
/// If the kernel returns none.
pub(crate) fn new_uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().parse::<Uuid>()?.to_string())
}
