//! Methods of volumes.

use super::store::by_name;
use super::{failed, failed_with, method, store_failed};
use crate::on_bus::ALL_BLOCKS;
use crate::stores::{self, LvStore};
use drivebay_blobstore::{ClearMethod, Info, NewVolume};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use std::rc::Rc;

const MIB: u64 = 1 << 20;
const INTERNAL_ERROR: i64 = -32603;

params! {
    /// Parameters of `bdev_lvol_create`.
    pub struct Create {
        /// Name of the new volume, unique in its store.
        lvol_name: String,
        /// Size in MiB. The store rounds it up to whole clusters.
        size_in_mib: u64,
        /// If true, a cluster is allocated at its first write. If false, all clusters are allocated now.
        thin_provision: bool = false,
        /// UUID of the store. Give either this or `lvs_name`.
        uuid: Option<String>,
        /// Name of the store. Give either this or `uuid`.
        lvs_name: Option<String>,
        /// How to clear a cluster that the volume releases: `none`, `unmap` or `write_zeroes`.
        clear_method: Option<String>,
    }

    /// Names a volume.
    pub struct Volume {
        /// UUID or alias of the volume.
        name: String,
    }

    /// Parameters of `bdev_lvol_rename`.
    pub struct Rename {
        /// UUID or alias of the volume.
        old_name: String,
        /// New name.
        new_name: String,
    }

    /// Parameters of `bdev_lvol_resize`.
    pub struct Resize {
        /// UUID or alias of the volume.
        name: String,
        /// New size in MiB. The store rounds it up to whole clusters.
        size_in_mib: u64,
    }

    /// Parameters of `bdev_lvol_snapshot`.
    pub struct Snapshot {
        /// UUID or alias of the volume.
        lvol_name: String,
        /// Name of the new snapshot.
        snapshot_name: String,
    }

    /// Parameters of `bdev_lvol_clone`.
    pub struct Clone {
        /// UUID or alias of the snapshot.
        snapshot_name: String,
        /// Name of the new clone.
        clone_name: String,
    }

    /// Parameters of `bdev_lvol_clone_bdev`.
    pub struct CloneBdev {
        /// Name or UUID of the bdev. While it has clones, nothing can write to it.
        bdev: String,
        /// Name of the store.
        lvs_name: String,
        /// Name of the new clone.
        clone_name: String,
    }

    /// Parameters of the methods that give a volume another parent.
    pub struct SetParent {
        /// UUID or alias of the volume.
        lvol_name: String,
        /// UUID, alias or name of the parent.
        parent_name: String,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(app, "bdev_lvol_create", "Creates a volume.", "UUID of the volume.", create)?;
    method(
        app,
        "bdev_lvol_delete",
        "Deletes a volume. If it is a snapshot with one clone, the clone gets its clusters.",
        "true",
        delete,
    )?;
    method(app, "bdev_lvol_rename", "Renames a volume.", "true", async |params: Rename| {
        let (store, info) = stores::find(&params.old_name)?;
        let rename = store.store.rename_volume(info.id, &params.new_name);
        let done = store.renamed(info.id, &params.new_name, rename).await;
        done.map_err(|error| failed(&error)).map(|()| true)
    })?;
    method(app, "bdev_lvol_resize", "Changes the size of a volume.", "true", resize)?;
    method(
        app,
        "bdev_lvol_set_read_only",
        "Marks a volume as read-only. The mark takes effect when its store is opened the next time.",
        "true",
        async |params: Volume| {
            let (store, info) = stores::find(&params.name)?;
            store.store.set_read_only(info.id).await.map_err(store_failed)?;
            Ok(true)
        },
    )?;
    method(
        app,
        "bdev_lvol_snapshot",
        "Creates a snapshot of a volume.",
        "UUID of the snapshot.",
        snapshot,
    )?;
    method(app, "bdev_lvol_clone", "Creates a clone of a snapshot.", "UUID of the clone.", clone)?;
    method(
        app,
        "bdev_lvol_clone_bdev",
        "Creates a volume that is a clone of a bdev outside the store.",
        "UUID of the clone.",
        clone_bdev,
    )?;
    method(
        app,
        "bdev_lvol_inflate",
        "Allocates all clusters of a volume and copies the data of its parent. The volume is then thick and has no parent.",
        "true",
        async |params: Volume| {
            let (store, info) = stores::find(&params.name)?;
            let done = store.store.inflate(info.id).await.map_err(store_failed);
            settle(&store, info.id).await?;
            done.map(|()| true)
        },
    )?;
    method(
        app,
        "bdev_lvol_decouple_parent",
        "Copies the clusters of the parent to a volume. The parent of that parent becomes the parent of the volume.",
        "true",
        async |params: Volume| {
            let (store, info) = stores::find(&params.name)?;
            let done = store.store.decouple(info.id).await.map_err(store_failed);
            settle(&store, info.id).await?;
            done.map(|()| true)
        },
    )?;
    method(
        app,
        "bdev_lvol_set_parent",
        "Makes a snapshot of the same size the new parent of a volume.",
        "true",
        set_parent,
    )?;
    method(
        app,
        "bdev_lvol_set_parent_bdev",
        "Makes a bdev outside the store the new parent of a volume.",
        "true",
        set_parent_bdev,
    )
}

/// Gives the data path a new map. On return, I/O that began with the old map has ended.
async fn settle(store: &LvStore, id: drivebay_blobstore::BlobId) -> Result<(), RpcError> {
    store.watch_fill();
    store.quiesced(id, async { Ok(()) }).await.map_err(|error| failed(&error))
}

/// The number of clusters for a size in MiB.
fn clusters(store: &LvStore, size_in_mib: u64) -> Result<u64, RpcError> {
    let bytes = size_in_mib.checked_mul(MIB);
    let bytes =
        bytes.ok_or_else(|| Error::invalid("size_in_mib", size_in_mib, "less than 2^44"))?;
    Ok(bytes.div_ceil(u64::from(store.store.super_block().cluster_size)))
}

fn clear_method(text: Option<&str>) -> Result<Option<ClearMethod>> {
    Ok(match text {
        None => None,
        Some("none") => Some(ClearMethod::None),
        Some("unmap") => Some(ClearMethod::Unmap),
        Some("write_zeroes") => Some(ClearMethod::WriteZeroes),
        Some(other) => {
            return Err(Error::invalid("clear_method", other, "none, unmap, write_zeroes"));
        }
    })
}

async fn create(params: Create) -> Result<String, RpcError> {
    let store = by_name(params.uuid, params.lvs_name)?;
    let num_clusters = clusters(&store, params.size_in_mib)?;
    if num_clusters == 0 {
        return Err(Error::invalid("size_in_mib", 0, "at least 1").into());
    }
    let new = NewVolume {
        name: params.lvol_name,
        uuid: stores::new_uuid()?,
        num_clusters,
        thin: params.thin_provision,
        clear_method: clear_method(params.clear_method.as_deref())?,
        external_parent: None,
    };
    let created = store.store.create_volume(&new).await;
    let id = created.map_err(|error| match error.errno {
        // These errors come before the operation begins, so they keep their own code.
        errno::EEXIST | errno::EINVAL => stores::error(error).into(),
        _ => store_failed(error),
    })?;
    publish(&store, id)
}

fn publish(store: &Rc<LvStore>, id: drivebay_blobstore::BlobId) -> Result<String, RpcError> {
    store.watch_fill();
    store.publish(id).map_err(|error| failed(&error))
}

async fn delete(params: Volume) -> Result<bool, RpcError> {
    let (store, info) = stores::find(&params.name)?;
    let refused = |error: &Error| failed_with(INTERNAL_ERROR, error);
    if info.clones.len() > 1 {
        let message = format!("the snapshot has {} clones", info.clones.len());
        return Err(refused(&Error::new(errno::EPERM, message)));
    }
    // A volume that an operation has stays on the bus.
    let busy = store.store.begin(info.id, "delete").map(drop);
    busy.map_err(|error| refused(&stores::error(error)))?;
    store.unpublish(info.id).await.map_err(|error| refused(&error))?;
    let delete = store.store.delete_volume(info.id);
    match (delete.await.map_err(stores::error), info.clones.first()) {
        (Ok(unused), Some(clone)) => {
            store.refresh(*clone);
            // Earlier reads of the clone may still go to clusters that the clone has replaced.
            store.recycle(*clone, vec![ALL_BLOCKS], unused);
            Ok(true)
        }
        (Ok(unused), None) => {
            store.free(unused).await;
            Ok(true)
        }
        (Err(error), _) => {
            // The volume still exists, so it goes back on the bus.
            publish(&store, info.id)?;
            Err(refused(&error))
        }
    }
}

async fn resize(params: Resize) -> Result<bool, RpcError> {
    let (store, info) = stores::find(&params.name)?;
    let size = clusters(&store, params.size_in_mib)?;
    if size < u64::from(info.num_clusters) {
        // The bus refuses this if a client has the volume open.
        let blocks = size * store.store.super_block().blocks_per_cluster();
        store.set_size_on_bus(info.id, blocks).map_err(|error| failed(&error))?;
    }
    let resized = store.quiesced(info.id, store.store.resize(info.id, size)).await;
    let on_bus = store.resized(info.id);
    let cut_off = resized.map_err(|error| failed(&error))?;
    store.free(cut_off).await;
    on_bus.map_err(|error| failed(&error))?;
    Ok(true)
}

async fn snapshot(params: Snapshot) -> Result<String, RpcError> {
    let (store, info) = stores::find(&params.lvol_name)?;
    let uuid = stores::new_uuid()?;
    let take = store.store.snapshot(info.id, &params.snapshot_name, &uuid);
    let id = store.frozen(info.id, take).await.map_err(|error| failed(&error))?;
    publish(&store, id)
}

async fn clone(params: Clone) -> Result<String, RpcError> {
    let (store, info) = stores::find(&params.snapshot_name)?;
    let uuid = stores::new_uuid()?;
    let id = store.store.clone_snapshot(info.id, &params.clone_name, &uuid).await;
    publish(&store, id.map_err(store_failed)?)
}

/// UUID and size in bytes of a bdev that becomes a parent.
fn external(name: &str) -> Result<(String, u64)> {
    let info = App::here(|app| drivebay_sdk::bdev::open(app, name, false, |_, _| {}))??.info()?;
    let bytes = info.num_blocks().saturating_mul(info.block_size().into());
    Ok((Uuid(info.uuid()).to_string(), bytes))
}

fn check_external(store: &LvStore, name: &str) -> Result<(String, u64), RpcError> {
    let not_there = |_| failed(&Error::new(errno::ENODEV, "bdev does not exist"));
    let (uuid, bytes) = external(name).map_err(not_there)?;
    let cluster = u64::from(store.store.super_block().cluster_size);
    if bytes == 0 || !bytes.is_multiple_of(cluster) {
        let message = format!("bdev {name} has {bytes} bytes, not a multiple of {cluster}");
        return Err(failed(&Error::new(errno::EINVAL, message)));
    }
    let of_same_store = stores::find(name).is_ok_and(|(other, _)| std::ptr::eq(&*other, store));
    if of_same_store {
        let message = "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead";
        return Err(failed(&Error::new(errno::EINVAL, message)));
    }
    Ok((uuid, bytes / cluster))
}

async fn clone_bdev(params: CloneBdev) -> Result<String, RpcError> {
    let store = by_name(None, Some(params.lvs_name));
    let store = store.map_err(|_| failed(&Error::new(errno::ENODEV, "lvs does not exist")))?;
    let (parent, num_clusters) = check_external(&store, &params.bdev)?;
    let new = NewVolume {
        name: params.clone_name,
        uuid: stores::new_uuid()?,
        num_clusters,
        thin: true,
        clear_method: None,
        external_parent: Some([parent.as_bytes(), b"\0"].concat()),
    };
    let id = store.store.create_volume(&new).await.map_err(store_failed)?;
    publish(&store, id)
}

/// The two volumes of a change of parents.
fn pair(params: &SetParent) -> Result<(Rc<LvStore>, Info, Info)> {
    let (store, info) = stores::find(&params.lvol_name)?;
    let (other, parent) = stores::find(&params.parent_name)?;
    if !Rc::ptr_eq(&store, &other) {
        return Err(Error::new(errno::EINVAL, "volume and parent are in two stores"));
    }
    Ok((store, info, parent))
}

async fn set_parent(params: SetParent) -> Result<bool, RpcError> {
    let (store, info, parent) = pair(&params)?;
    let set = store.store.set_parent(info.id, parent.id);
    store.quiesced(info.id, set).await.map_err(|error| failed(&error))?;
    Ok(true)
}

async fn set_parent_bdev(params: SetParent) -> Result<bool, RpcError> {
    let (store, info) = stores::find(&params.lvol_name)?;
    let (parent, _) = check_external(&store, &params.parent_name)?;
    let name = [parent.as_bytes(), b"\0"].concat();
    // Channels open their channel of the parent when they are created, so the volume leaves the bus
    // and returns.
    store.unpublish(info.id).await.map_err(|error| failed(&error))?;
    let done = store.store.set_external_parent(info.id, &name).await.map_err(store_failed);
    publish(&store, info.id)?;
    done.map(|()| true)
}
