//! Puts the volumes of a store on the bus, quiesces them for operations, renames them, and takes them off.

use crate::map::{Map, Shared};
use crate::stores::{LvStore, all, error};
use crate::volume::{LvolBdev, Parts};
use drivebay_blobstore::{BlobId, Error as StoreError, Info};
use drivebay_sdk::bdev::{self, Registered};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::oneshot;
use drivebay_sdk::serde_json::{Map as Members, Value};
use std::rc::Rc;
use std::sync::Arc;

impl LvStore {
    /// Puts every volume without faults on the bus, unless it is there already.
    pub(crate) fn publish_all(self: &Rc<Self>) {
        for info in self.store.volumes() {
            if let Some(fault) = info.faults.first() {
                error!("volume {} of store {} is not served: {fault}", info.name, self.uuid);
                continue;
            }
            if let Err(error) = self.publish(info.id) {
                warn!("volume {} of store {}: {error}", info.name, self.uuid);
                self.degraded.borrow_mut().insert(info.id, error.to_string());
            }
        }
    }

    /// Tries again to put the degraded volumes on the bus, because their parent outside of the store may exist
    /// now.
    pub(crate) fn publish_degraded(self: &Rc<Self>) {
        for (id, known) in self.degraded.take() {
            let is_good = self.store.volume(id).is_ok_and(|info| info.faults.is_empty());
            if is_good && let Err(error) = self.publish(id) {
                let why = error.to_string();
                // Log the same error only once, because every new bdev leads to another attempt.
                if why != known {
                    warn!("blob {id} of store {}: {why}", self.uuid);
                }
                self.degraded.borrow_mut().insert(id, why);
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
        let external = match self.store.external_ancestor(id) {
            Some(parent) => match self.store.disk().external(&parent) {
                Some(desc) => Some(desc),
                // The volume is degraded until the parent exists.
                None => {
                    self.degraded.borrow_mut().insert(id, String::new());
                    return Ok(name);
                }
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
            pool: Arc::clone(&self.pool),
        })?;
        // A saved configuration leaves volumes out, because opening the store brings them back.
        App::here(|app| bdev::register(app, bdev, "", Value::Null))??;
        self.maps.borrow_mut().insert(id, shared);
        self.on_bus.borrow_mut().insert(id, name.clone());
        Ok(name)
    }

    fn map(&self, info: &Info) -> Map {
        let places = (0..info.num_clusters).map(|index| self.store.place(info.id, index));
        let map = Map::new(info.is_thin, places);
        let releasing = self.releasing.borrow();
        releasing.get(&info.id).into_iter().flatten().for_each(|index| map.set_changing(*index));
        // A snapshot is taking over the clusters: another operation must not show them as the volume's own.
        if self.is_frozen(info.id) { map.of_next_epoch() } else { map }
    }

    /// Gives the data path a new map of a volume, and of every volume that reads through it.
    pub(crate) fn refresh(&self, id: BlobId) {
        for id in self.store.family(id) {
            let Ok(info) = self.store.volume(id) else { continue };
            if let Some(shared) = self.maps.borrow().get(&id) {
                shared.replace(self.map(&info));
            }
        }
    }

    /// Tells the bus the new size of the volume.
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

    pub(crate) fn bdev(&self, id: BlobId) -> Result<Registered<LvolBdev>> {
        let name = self.on_bus.borrow().get(&id).cloned().ok_or_else(Error::no_such_device)?;
        bdev::find(&name)
    }

    /// Runs an operation while no I/O of a volume is in flight. Then the data path gets a new map.
    pub(crate) async fn quiesced<T>(
        &self,
        id: BlobId,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T> {
        let Ok(bdev) = self.bdev(id) else {
            return operation.await.map_err(error);
        };
        quiesce(&bdev, ALL_BLOCKS).await?;
        let result = operation.await.map_err(error);
        self.watch_fill();
        self.refresh(id);
        App::here(|app| bdev.unquiesce(app))??;
        result
    }

    /// Runs an operation that gives all clusters of a volume to a parent, such as a snapshot. The data path stops
    /// only until the I/O in flight has ended. Then reads go on, and writes wait for the operation.
    pub(crate) async fn frozen<T>(
        self: &Rc<Self>,
        id: BlobId,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T> {
        let Ok(bdev) = self.bdev(id) else {
            return operation.await.map_err(error);
        };
        quiesce(&bdev, ALL_BLOCKS).await?;
        let shared = self.maps.borrow().get(&id).cloned();
        if let Some(shared) = shared {
            shared.freeze();
        }
        self.freeze_requests(id);
        let result = match App::here(|app| bdev.unquiesce(app)).and_then(|released| released) {
            Ok(()) => operation.await.map_err(error),
            Err(error) => Err(error),
        };
        self.thaw_requests(id);
        if result.is_err() {
            self.refresh(id);
        }
        result
    }

    /// Waits until all earlier I/O to some blocks of a volume has ended.
    pub(crate) async fn drain(&self, id: BlobId, blocks: Range) -> Result<()> {
        let Ok(bdev) = self.bdev(id) else {
            return Ok(());
        };
        quiesce(&bdev, blocks).await?;
        App::here(|app| bdev.unquiesce_blocks(app, blocks))?
    }

    /// Takes a volume off the bus and waits until it is gone.
    pub(crate) async fn unpublish(&self, id: BlobId) -> Result<()> {
        let Ok(bdev) = self.bdev(id) else {
            return Ok(());
        };
        let (done, gone) = oneshot::channel();
        App::here(|app| bdev.unregister(app, move |_, status| drop(done.send(status))))?;
        gone.await.map_err(|_| Error::new(errno::ECANCELED, "the host is shutting down"))??;
        self.on_bus.borrow_mut().remove(&id);
        self.maps.borrow_mut().remove(&id);
        Ok(())
    }

    /// Changes the alias of a volume on the bus. `rename` changes the name on disk.
    ///
    /// # Errors
    /// `EEXIST` when a bdev has that name, or the errors of `rename`. The volume keeps its alias then.
    pub(crate) async fn renamed(
        &self,
        id: BlobId,
        new_name: &str,
        rename: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<()> {
        let (old, new) = {
            let (store, info) = (self.info()?.name, self.store.volume(id).map_err(error)?);
            (format!("{store}/{}", info.name), format!("{store}/{new_name}"))
        };
        let Ok(bdev) = self.bdev(id) else {
            return rename.await.map_err(error);
        };
        if old == new {
            return rename.await.map_err(error);
        }
        App::here(|app| bdev.add_alias(app, &new))??;
        let done = rename.await.map_err(error);
        let unneeded = if done.is_ok() { &old } else { &new };
        App::here(|app| bdev.remove_alias(app, unneeded))??;
        done
    }

    /// Changes the aliases of all volumes on the bus to the store's new name.
    pub(crate) fn store_renamed(&self, old_name: &str) -> Result<()> {
        let new_name = self.info()?.name;
        for info in self.store.volumes() {
            let Ok(bdev) = self.bdev(info.id) else { continue };
            let changed = App::here(|app| {
                bdev.add_alias(app, &format!("{new_name}/{}", info.name))?;
                bdev.remove_alias(app, &format!("{old_name}/{}", info.name))
            })?;
            if let Err(error) = changed {
                warn!("volume {} of store {new_name}: {error}", info.name);
            }
        }
        Ok(())
    }
}

/// All blocks, for `quiesce_blocks`.
pub(crate) const ALL_BLOCKS: Range = Range::new(0, 0);

async fn quiesce(bdev: &Registered<LvolBdev>, blocks: Range) -> Result<()> {
    let (done, quiet) = oneshot::channel();
    App::here(|app| bdev.quiesce_blocks(app, blocks, move |_, status| drop(done.send(status))))??;
    quiet.await.map_err(|_| Error::new(errno::ECANCELED, "the host is shutting down"))?
}

/// The `driver_specific` part of `bdev_get_bdevs` for a volume. `[app thread]`
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
