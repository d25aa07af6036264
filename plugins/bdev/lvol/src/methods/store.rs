//! Methods of stores.

use super::{failed, method, store_failed};
use crate::stores::{self, LvStore};
use drivebay_blobstore::{ClearMethod, Fault, NewStoreOptions};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::serde_json::{Value, json};
use std::rc::Rc;

/// Faults of one volume that a list of volumes shows.
const FAULTS_MAX: usize = 16;

params! {
    /// Parameters of `bdev_lvol_create_lvstore`.
    pub struct Create {
        /// Bdev that holds the store. Its present data is lost.
        bdev_name: String,
        /// Name of the store.
        lvs_name: String,
        /// Cluster size, in bytes: a multiple of 4096. A store allocates whole clusters.
        cluster_sz: u32 = 4_194_304,
        /// How to clear all clusters now: `none`, `unmap` or `write_zeroes`.
        clear_method: String = "unmap".to_owned(),
        /// Metadata pages per cluster, in percent. Their number limits how far the store can grow.
        num_md_pages_per_cluster_ratio: u32 = 100,
        /// Size of a metadata page, in bytes: a power of two. 0 = the size that the bdev needs, at least 4096.
        md_page_size: u32 = 0,
    }

    /// Names a store.
    pub struct Named {
        /// UUID of the store.
        uuid: Option<String>,
        /// Name of the store.
        lvs_name: Option<String>,
    }

    /// Parameters of `bdev_lvol_rename_lvstore`.
    pub struct Rename {
        /// Present name of the store.
        old_name: String,
        /// New name.
        new_name: String,
    }

    /// Parameters of `bdev_lvol_get_lvols`.
    pub struct OfStore {
        /// UUID of a store. The answer has only its volumes.
        lvs_uuid: Option<String>,
        /// Name of a store. The answer has only its volumes.
        lvs_name: Option<String>,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_create_lvstore",
        "Creates a store of logical volumes on a bdev.",
        "UUID of the store.",
        create,
    )?;
    method(
        app,
        "bdev_lvol_delete_lvstore",
        "Destroys a store and all its volumes.",
        "true",
        async |params: Named| delete(by_name(params.uuid, params.lvs_name)?).await,
    )?;
    method(app, "bdev_lvol_rename_lvstore", "Renames a store.", "true", rename)?;
    method(
        app,
        "bdev_lvol_grow_lvstore",
        "Grows a store to the size of its bdev, which has become larger.",
        "true",
        async |params: Named| {
            let store = by_name(params.uuid, params.lvs_name)?;
            let grown = store.store.grow().await.map_err(store_failed);
            store.watch_fill();
            grown.map(|()| true)
        },
    )?;
    method(
        app,
        "bdev_lvol_get_lvstores",
        "Lists the stores, or describes one.",
        "Array of objects, one for each store.",
        async |params: Named| {
            let stores = if params.uuid.is_none() && params.lvs_name.is_none() {
                stores::all()
            } else {
                vec![by_name(params.uuid, params.lvs_name)?]
            };
            stores.iter().map(|store| show(store)).collect::<Result<Vec<_>, RpcError>>()
        },
    )?;
    method(
        app,
        "bdev_lvol_get_lvols",
        "Lists the volumes of all stores or of one store, including volumes that have no bdev.",
        "Array of objects, one for each volume.",
        async |params: OfStore| {
            let stores = if params.lvs_uuid.is_none() && params.lvs_name.is_none() {
                stores::all()
            } else {
                vec![by_name(params.lvs_uuid, params.lvs_name)?]
            };
            let all = stores.iter().map(|store| volumes(store));
            all.collect::<Result<Vec<_>, RpcError>>().map(|all| all.concat())
        },
    )
}

/// The store with that UUID or that name.
pub(super) fn by_name(uuid: Option<String>, name: Option<String>) -> Result<Rc<LvStore>, Error> {
    if uuid.is_some() == name.is_some() {
        return Err(Error::new(errno::EINVAL, "uuid or lvs_name is needed, and not both"));
    }
    let found = stores::all().into_iter().find(|store| {
        store.info().is_ok_and(|info| {
            uuid.as_ref().is_none_or(|uuid| *uuid == info.uuid)
                && name.as_ref().is_none_or(|name| *name == info.name)
        })
    });
    found.ok_or_else(Error::no_such_device)
}

async fn create(params: Create) -> Result<String, RpcError> {
    let clear_method = match params.clear_method.as_str() {
        "none" => ClearMethod::None,
        "unmap" => ClearMethod::Unmap,
        "write_zeroes" => ClearMethod::WriteZeroes,
        other => {
            let allowed = "none, unmap, write_zeroes";
            return Err(Error::invalid("clear_method", other, allowed).into());
        }
    };
    let base = bdev_size(&params.bdev_name)?;
    let clusters = base / u64::from(params.cluster_sz.max(1));
    let pages = u64::from(params.num_md_pages_per_cluster_ratio).saturating_mul(clusters) / 100;
    let options = NewStoreOptions {
        name: params.lvs_name,
        uuid: stores::new_uuid()?,
        cluster_size: params.cluster_sz,
        num_md_pages: u32::try_from(pages).ok(),
        md_page_size: params.md_page_size,
        clear_method,
    };
    let store = stores::create(&params.bdev_name, &options).await.map_err(|error| {
        let begun = error.errno() != errno::ENODEV && error.errno() != errno::EEXIST;
        if begun { failed(&error) } else { error.into() }
    })?;
    Ok(store.info()?.uuid)
}

fn bdev_size(name: &str) -> Result<u64> {
    let info = App::here(|app| drivebay_sdk::bdev::open(app, name, false, |_, _| {}))??.info()?;
    Ok(info.num_blocks().saturating_mul(info.block_size().into()))
}

async fn delete(store: Rc<LvStore>) -> Result<bool, RpcError> {
    store.end().await;
    store.store.destroy().await.map_err(store_failed)?;
    Ok(true)
}

async fn rename(params: Rename) -> Result<bool, RpcError> {
    let store = by_name(None, Some(params.old_name.clone())).map_err(|_| {
        Error::new(errno::ENOENT, format!("Lvol store {} not found", params.old_name))
    })?;
    if params.old_name != params.new_name && by_name(None, Some(params.new_name.clone())).is_ok() {
        let message = format!("there is a store named {}", params.new_name);
        return Err(failed(&Error::new(errno::EEXIST, message)));
    }
    store.store.rename_store(&params.new_name).await.map_err(store_failed)?;
    store.store_renamed(&params.old_name).map_err(|error| failed(&error))?;
    Ok(true)
}

fn show(store: &LvStore) -> Result<Value, RpcError> {
    let info = store.info()?;
    Ok(json!({
        "uuid": info.uuid,
        "name": info.name,
        "base_bdev": store.base_name,
        "total_data_clusters": info.total_data_clusters,
        "free_clusters": info.free_clusters,
        "block_size": info.block_size,
        "cluster_size": info.cluster_size,
        "max_growable_size": info.max_growable_size,
    }))
}

fn volumes(store: &LvStore) -> Result<Vec<Value>, RpcError> {
    let of_store = store.info()?;
    let show = |info: drivebay_blobstore::Info| {
        let faults = first_faults(&info.faults);
        let volume = json!({
            "alias": format!("{}/{}", of_store.name, info.name),
            "uuid": store.bdev_name(&info),
            "name": info.name,
            "is_thin_provisioned": info.is_thin,
            "is_snapshot": !info.clones.is_empty(),
            "is_clone": info.parent.is_some(),
            "is_esnap_clone": info.external_parent.is_some(),
            "is_degraded": store.is_degraded(&info),
            "num_allocated_clusters": info.num_allocated_clusters,
            "lvs": { "name": of_store.name, "uuid": of_store.uuid },
        });
        with_faults(volume, faults)
    };
    Ok(store.store.volumes().into_iter().map(show).collect())
}

/// The first faults as text, and how many more there are.
fn first_faults(faults: &[Fault]) -> Vec<String> {
    let mut texts: Vec<String> = faults.iter().take(FAULTS_MAX).map(ToString::to_string).collect();
    if let Some(more) = faults.len().checked_sub(FAULTS_MAX).filter(|more| *more > 0) {
        texts.push(format!("and {more} more; bdev_lvol_check_lvstore lists them all"));
    }
    texts
}

/// Says why a volume is not served, if it is not.
fn with_faults(mut volume: Value, faults: Vec<String>) -> Value {
    if let (Some(members), false) = (volume.as_object_mut(), faults.is_empty()) {
        members.insert("faults".into(), faults.into());
    }
    volume
}
