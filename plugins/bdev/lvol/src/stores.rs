//! The stores that are open. They live on the app thread, which is the metadata thread of all of them.

use crate::base::BaseDisk;
use crate::map::{Map, Shared};
use crate::volume::{LvolBdev, Parts, ThreadState};
use drivebay_blobstore::spec::lvol;
use drivebay_blobstore::{BlobId, Error as StoreError, Info, NewStoreOptions, Store, StoreInfo};
use drivebay_sdk::Stopping;
use drivebay_sdk::bdev::{self, Claim, Desc, Event, Examine, Registered, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, oneshot};
use drivebay_sdk::runtime::{OnApp, Resident};
use drivebay_sdk::serde_json::{Map as Members, Value};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Clusters of one volume that are allocated with one flush.
const BATCH_MAX: usize = 64;

/// How long a method waits for bdevs that are being looked at.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

static EXAMINING: OnApp<Examining> = OnApp::new();

/// Bdevs that are being looked at.
#[derive(Debug, Default)]
struct Examining {
    count: Cell<usize>,
    ended: Notify,
}

static STORES: OnApp<RefCell<Vec<Rc<LvStore>>>> = OnApp::new();

/// Clusters that the data path of a volume waits for, with the channels that wait.
type Wanted = BTreeMap<u32, Vec<Resident<ThreadState>>>;

/// A store that is open, with its volumes.
#[derive(Debug)]
pub(crate) struct LvStore {
    pub(crate) store: Store<BaseDisk>,
    pub(crate) base_name: String,
    uuid: String,
    desc: Arc<Desc>,
    maps: RefCell<BTreeMap<BlobId, Arc<Shared>>>,
    /// Names on the bus of the volumes that are there.
    on_bus: RefCell<BTreeMap<BlobId, String>>,
    wanted: RefCell<BTreeMap<BlobId, Wanted>>,
    allocating: RefCell<BTreeSet<BlobId>>,
    /// Set while it is closed or destroyed: nothing new begins.
    is_ending: Cell<bool>,
}

/// All stores. `[app thread]`
pub(crate) fn all() -> Vec<Rc<LvStore>> {
    STORES.get().map(|stores| stores.borrow().clone()).unwrap_or_default()
}

/// An error of the store as one of the control plane.
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
async fn load(base: &str) -> Result<Option<Rc<LvStore>>> {
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
    // The type lies where `docs/formats/lvstore.md` says.
    first.starts_with(b"SPDKBLOB") && first.get(56..72) == Some(&lvol::BSTYPE[..])
}

fn open_base(name: &str) -> Result<Arc<Desc>> {
    let of_event = name.to_owned();
    App::here(|app| {
        let desc = open(app, name, true, move |_, event| {
            if event == Event::Remove {
                base_is_gone(&of_event);
            }
        })?;
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
            "the store has blocks of {} bytes, bdev {} of {}",
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
        wanted: RefCell::default(),
        allocating: RefCell::default(),
        is_ending: Cell::new(false),
    });
    STORES.get_or_init(RefCell::default)?.borrow_mut().push(Rc::clone(&store));
    Ok(store)
}

/// A bdev has come: it may hold a store, or be the parent that volumes wait for. `[app thread]`
pub(crate) fn examine(_: &App, examine: Examine) {
    let Ok(examining) = EXAMINING.get_or_init(Examining::default) else {
        return;
    };
    examining.count.set(examining.count.get() + 1);
    let under_way = UnderWay(examining);
    let look = async move {
        let _under_way = under_way;
        let name = examine.name().to_owned();
        match load(&name).await {
            Ok(Some(store)) => info!("bdev {name} holds store {}", store.uuid),
            Ok(None) => {}
            Err(error) => warn!("bdev {name} is not used: {error}"),
        }
        all().iter().for_each(|store| store.publish_all());
        drop(examine);
    };
    if let Ok(task) = task::spawn("lvol examine", look) {
        task.detach();
    }
}

/// Counts a bdev that is being looked at, until it is dropped.
struct UnderWay(Rc<Examining>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.ended.notify();
    }
}

/// Waits until every bdev that has come was looked at: a call that loads the plugin finds the stores
/// that are there. A bdev that does not answer holds nobody up for long.
pub(crate) async fn settled() {
    task::yield_now().await;
    if let Some(examining) = EXAMINING.get() {
        let ended = examining.ended.until(|| examining.count.get() == 0);
        _ = task::timeout(SETTLE_LIMIT, ended).await;
    }
}

fn base_is_gone(base: &str) {
    for store in all().into_iter().filter(|store| store.base_name == base) {
        let gone = async move {
            warn!(
                "bdev {} is gone, and the volumes of store {} with it",
                store.base_name, store.uuid
            );
            store.end().await;
        };
        if let Ok(task) = task::spawn("lvol base removed", gone) {
            task.detach();
        }
    }
}

/// A parent outside of the store goes away: volumes that need it are degraded until it comes back.
pub(crate) fn parent_is_gone(parent: &[u8]) {
    let parent = parent.to_vec();
    let gone = async move {
        for store in all() {
            for info in store.store.volumes() {
                if store.external_name(info.id).as_ref() == Some(&parent)
                    && let Err(error) = store.unpublish(info.id).await
                {
                    warn!("volume {} of store {}: {error}", info.name, store.uuid);
                }
            }
            store.store.disk().forget_external(&parent);
        }
    };
    if let Ok(task) = task::spawn("lvol parent removed", gone) {
        task.detach();
    }
}

/// Closes all stores in order, then lets the plugin end.
pub(crate) fn close_all(stopping: Stopping) {
    let close = async move {
        for store in all() {
            store.close().await;
        }
        drop(stopping);
    };
    if let Ok(task) = task::spawn("lvol stop", close) {
        task.detach();
    }
}

/// Asks the metadata thread for a cluster. `[reactor]`
pub(crate) fn want_cluster(store: &str, id: BlobId, index: u32, resident: Resident<ThreadState>) {
    let store = store.to_owned();
    match STORES.handle() {
        Some(stores) => stores.send(move |stores| {
            let found = stores.borrow().iter().find(|other| other.uuid == store).cloned();
            match found {
                Some(found) => found.want(id, index, resident),
                None => answer(&resident, index, Status::IO_ERROR),
            }
        }),
        None => answer(&resident, index, Status::IO_ERROR),
    }
}

fn answer(resident: &Resident<ThreadState>, index: u32, status: Status) {
    let own = resident.clone();
    resident.send(move |state| state.cluster_is_there(&own, index, status));
}

impl LvStore {
    /// What is known of the store.
    ///
    /// # Errors
    /// `ENODEV` when it has lost its name.
    pub(crate) fn info(&self) -> Result<StoreInfo> {
        self.store.info().ok_or_else(Error::no_such_device)
    }

    /// A volume's name on the bus: its UUID, or what stands for it in old stores.
    pub(crate) fn bdev_name(&self, info: &Info) -> String {
        let raw = drivebay_blobstore::spec::BlobId::to_raw(Some(info.id));
        info.uuid.clone().unwrap_or_else(|| format!("{}_{raw}", self.uuid))
    }

    /// Whether the volume's parent outside of the store is missing.
    pub(crate) fn is_degraded(&self, info: &Info) -> bool {
        info.faults.is_empty() && !self.on_bus.borrow().contains_key(&info.id)
    }

    /// Puts every volume on the bus that can be and is not.
    fn publish_all(self: &Rc<Self>) {
        for info in self.store.volumes() {
            if let Some(fault) = info.faults.first() {
                error!("volume {} of store {} is not served: {fault}", info.name, self.uuid);
                continue;
            }
            if let Err(error) = self.publish(info.id) {
                warn!("volume {} of store {}: {error}", info.name, self.uuid);
            }
        }
    }

    /// Puts a volume on the bus; returns its name there.
    pub(crate) fn publish(self: &Rc<Self>, id: BlobId) -> Result<String> {
        let info = self.store.volume(id).map_err(error)?;
        let name = self.bdev_name(&info);
        if self.is_ending.get() || self.on_bus.borrow().contains_key(&id) {
            return Ok(name);
        }
        let external = match self.external_name(id) {
            Some(parent) => match self.store.disk().external(&parent) {
                Some(desc) => Some(desc),
                // Degraded until the parent comes.
                None => return Ok(name),
            },
            None => None,
        };
        let shared = Arc::new(Shared::new(self.map(&info)));
        let bdev = LvolBdev::new(Parts {
            info: &info,
            name: name.clone(),
            alias: format!("{}/{}", self.info()?.name, info.name),
            store_uuid: self.uuid.clone(),
            base: Arc::clone(&self.desc),
            external,
            blocks_per_cluster: self.store.super_block().blocks_per_cluster(),
            shared: Arc::clone(&shared),
        })?;
        // The store makes it again, not the configuration.
        App::here(|app| bdev::register(app, bdev, "", Value::Null))??;
        self.maps.borrow_mut().insert(id, shared);
        self.on_bus.borrow_mut().insert(id, name.clone());
        Ok(name)
    }

    /// The name of the parent outside of the store of a volume or of one of its ancestors.
    fn external_name(&self, id: BlobId) -> Option<Vec<u8>> {
        let mut next = Some(id);
        while let Some(id) = next {
            let info = self.store.volume(id).ok()?;
            if info.external_parent.is_some() {
                return info.external_parent;
            }
            next = info.parent;
        }
        None
    }

    fn map(&self, info: &Info) -> Map {
        Map::new((0..info.num_clusters).map(|index| self.store.place(info.id, index)))
    }

    /// Gives the data path the map of a volume anew, and that of every volume that reads through it.
    pub(crate) fn refresh(&self, id: BlobId) {
        let Ok(info) = self.store.volume(id) else {
            return;
        };
        if let Some(shared) = self.maps.borrow().get(&id) {
            shared.replace(self.map(&info));
        }
        for clone in info.clones {
            self.refresh(clone);
        }
    }

    /// Tells the bus the size that the volume has now.
    pub(crate) fn resized(&self, id: BlobId) -> Result<()> {
        let info = self.store.volume(id).map_err(error)?;
        let blocks = u64::from(info.num_clusters) * self.store.super_block().blocks_per_cluster();
        self.set_size_on_bus(id, blocks)
    }

    /// Tells the bus the size that a volume is going to have.
    pub(crate) fn set_size_on_bus(&self, id: BlobId, blocks: u64) -> Result<()> {
        let bdev = self.bdev(id)?;
        App::here(|app| bdev.resize(app, blocks))?
    }

    fn bdev(&self, id: BlobId) -> Result<Registered<LvolBdev>> {
        let name = self.on_bus.borrow().get(&id).cloned().ok_or_else(Error::no_such_device)?;
        bdev::find(&name)
    }

    /// Does something while no I/O of a volume is in flight; then the data path gets its map anew.
    pub(crate) async fn quiesced<T>(
        &self,
        id: BlobId,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T> {
        let Ok(bdev) = self.bdev(id) else {
            return operation.await.map_err(error);
        };
        let (done, quiet) = oneshot::channel();
        App::here(|app| bdev.quiesce(app, move |_, status| drop(done.send(status))))??;
        quiet.await.map_err(|_| Error::new(errno::ECANCELED, "the bus ends"))??;
        let result = operation.await.map_err(error);
        self.refresh(id);
        App::here(|app| bdev.unquiesce(app))??;
        result
    }

    /// Takes a volume off the bus and waits until it is gone.
    pub(crate) async fn unpublish(&self, id: BlobId) -> Result<()> {
        let Ok(bdev) = self.bdev(id) else {
            return Ok(());
        };
        let (done, gone) = oneshot::channel();
        App::here(|app| bdev.unregister(app, move |_, status| drop(done.send(status))))?;
        gone.await.map_err(|_| Error::new(errno::ECANCELED, "the bus ends"))??;
        self.on_bus.borrow_mut().remove(&id);
        self.maps.borrow_mut().remove(&id);
        Ok(())
    }

    fn want(self: &Rc<Self>, id: BlobId, index: u32, resident: Resident<ThreadState>) {
        let mut wanted = self.wanted.borrow_mut();
        wanted.entry(id).or_default().entry(index).or_default().push(resident);
        if self.allocating.borrow_mut().insert(id) {
            let this = Rc::clone(self);
            let allocate = async move { this.allocate_wanted(id).await };
            match task::spawn("lvol allocate", allocate) {
                Ok(task) => task.detach(),
                Err(error) => {
                    warn!("{error}");
                    self.allocating.borrow_mut().remove(&id);
                    for (index, residents) in wanted.remove(&id).unwrap_or_default() {
                        residents
                            .iter()
                            .for_each(|one| answer(one, index, Status::errno(errno::EAGAIN)));
                    }
                }
            }
        }
    }

    /// Allocates what the data path of a volume waits for, as much at once as there is.
    async fn allocate_wanted(&self, id: BlobId) {
        loop {
            let batch: Vec<u32> = {
                let wanted = self.wanted.borrow();
                let indices = wanted.get(&id).into_iter().flat_map(BTreeMap::keys);
                indices.take(BATCH_MAX).copied().collect()
            };
            if batch.is_empty() {
                self.wanted.borrow_mut().remove(&id);
                self.allocating.borrow_mut().remove(&id);
                return;
            }
            let all = self.store.allocate(id, &batch).await;
            for index in &batch {
                // When not all fit, as many as do.
                let done = match &all {
                    Err(_) if batch.len() > 1 => self.store.allocate(id, &[*index]).await,
                    all => all.clone(),
                };
                self.answer_wanted(id, *index, done);
            }
        }
    }

    fn answer_wanted(&self, id: BlobId, index: u32, done: Result<(), StoreError>) {
        let status = match done {
            Ok(()) => {
                if let Some(shared) = self.maps.borrow().get(&id) {
                    shared.map().set(index, self.store.place(id, index));
                }
                Status::SUCCESS
            }
            Err(error) => Status::errno(error.errno),
        };
        let residents = self.wanted.borrow_mut().get_mut(&id).and_then(|all| all.remove(&index));
        residents.iter().flatten().for_each(|resident| answer(resident, index, status));
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

    /// Takes all volumes off the bus and closes the store in order.
    async fn close(&self) {
        self.end().await;
        if let Err(error) = self.store.close().await {
            warn!("store {} is not closed in order: {error}", self.uuid);
        }
    }
}

/// What `bdev_get_bdevs` shows of a volume. `[app thread]`
pub(crate) fn driver_specific(store: &str, id: BlobId) -> Members<String, Value> {
    let mut members = Members::new();
    let Some(store) = all().into_iter().find(|other| other.uuid == store) else {
        return members;
    };
    let Ok(info) = store.store.volume(id) else {
        return members;
    };
    let name_of = |id: BlobId| store.store.volume(id).map(|info| info.name).unwrap_or_default();
    let mut lvol = Members::new();
    let mut put = |name: &str, value: Value| _ = lvol.insert(name.to_owned(), value);
    put("lvol_store_uuid", store.uuid.as_str().into());
    put("base_bdev", store.base_name.as_str().into());
    put("thin_provision", info.is_thin.into());
    put("num_allocated_clusters", info.num_allocated_clusters.into());
    put("snapshot", (!info.clones.is_empty()).into());
    put("clone", info.parent.is_some().into());
    if let Some(parent) = info.parent {
        put("base_snapshot", name_of(parent).into());
    }
    if !info.clones.is_empty() {
        put("clones", info.clones.iter().map(|id| name_of(*id)).collect::<Vec<_>>().into());
    }
    put("esnap_clone", info.external_parent.is_some().into());
    if let Some(parent) = &info.external_parent {
        let name = String::from_utf8_lossy(parent);
        put("external_snapshot_name", name.trim_end_matches('\0').into());
    }
    members.insert("lvol".into(), lvol.into());
    members
}

/// A new UUID from the kernel.
///
/// # Errors
/// When the kernel gives none.
pub(crate) fn new_uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().parse::<Uuid>()?.to_string())
}
