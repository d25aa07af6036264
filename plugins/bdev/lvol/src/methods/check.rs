//! Methods that check and repair stores.

use super::{failed, method, store_failed};
use crate::base::BaseDisk;
use crate::stores::{self, LvStore};
use drivebay_blobstore::{Report, check, repair};
use drivebay_sdk::bdev::{Claim, Desc, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{self, Value};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a repair waits until the closed store has given the bdev back.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

params! {
    /// Parameters of `bdev_lvol_check_lvstore`.
    pub struct Check {
        /// Bdev that holds the store. The store may be open or closed.
        bdev_name: String,
    }

    /// Parameters of `bdev_lvol_repair_lvstore`.
    pub struct Repair {
        /// Bdev that holds the store.
        bdev_name: String,
        /// If false, nothing is written. If true, the volumes of an open store are removed, and return after the repair.
        write: bool = false,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_check_lvstore",
        "Reads all metadata of a store and reports its faults. Nothing is written.",
        "The faults, each with its severity and whether it can be repaired.",
        async |params: Check| look(&params.bdev_name).await,
    )?;
    method(
        app,
        "bdev_lvol_repair_lvstore",
        "Repairs the faults of a store that have only one correct repair. Other faults remain.",
        "The remaining faults, in the form of `bdev_lvol_check_lvstore`.",
        async |params: Repair| {
            if params.write {
                mend(&params.bdev_name).await?;
            }
            look(&params.bdev_name).await
        },
    )
}

fn open_store(bdev: &str) -> Option<Rc<LvStore>> {
    stores::all().into_iter().find(|store| store.base_name == bdev)
}

/// The report of a store's check, as the result of a method.
async fn look(bdev: &str) -> Result<Value, RpcError> {
    serde_json::to_value(report(bdev).await?).map_err(RpcError::internal)
}

async fn report(bdev: &str) -> Result<Report, RpcError> {
    if let Some(store) = open_store(bdev) {
        return store.store.check().await.map_err(store_failed);
    }
    let desc = Arc::new(App::here(|app| open(app, bdev, false, |_, _| {}))??);
    let disk = BaseDisk::new(&desc)?;
    check(&disk).await.map_err(store_failed)
}

async fn mend(bdev: &str) -> Result<(), RpcError> {
    if let Some(store) = open_store(bdev) {
        store.close().await;
        let desc = Arc::downgrade(&store.desc);
        drop(store);
        // Tasks of the store that have not ended yet, such as giving clusters back, keep the bdev open a moment longer.
        if task::timeout(RELEASE_LIMIT, is_free(&desc)).await.is_err() {
            load_when_free(bdev, desc);
            let message =
                format!("bdev {bdev} is still in use; its store is opened again when it is free");
            return Err(failed(&Error::new(errno::EBUSY, message)));
        }
    }
    let repaired = write_repairs(bdev).await;
    // The volumes come back even when the repair has failed.
    let loaded = stores::load(bdev).await;
    repaired?;
    loaded.map(drop).map_err(|error| failed(&error))
}

async fn write_repairs(bdev: &str) -> Result<(), RpcError> {
    let opened = App::here(|app| {
        let desc = open(app, bdev, true, |_, _| {})?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        Ok(Arc::new(desc))
    });
    let desc = opened.and_then(|opened| opened).map_err(|error| failed(&error))?;
    repair(BaseDisk::new(&desc)?).await.map(drop).map_err(store_failed)
}

/// Waits until a closed store has given its bdev back.
async fn is_free(desc: &Weak<Desc>) {
    while desc.strong_count() > 0 {
        task::sleep(Duration::from_millis(1)).await;
    }
}

/// Opens a closed store again as soon as it has given its bdev back.
fn load_when_free(bdev: &str, desc: Weak<Desc>) {
    let bdev = bdev.to_owned();
    let load = async move {
        is_free(&desc).await;
        if open_store(&bdev).is_none()
            && let Err(error) = stores::load(&bdev).await
        {
            warn!("the store on bdev {bdev} stays closed: {error}");
        }
    };
    match task::spawn("lvol load", load) {
        Ok(task) => task.detach(),
        Err(error) => warn!("the store on a bdev stays closed: {error}"),
    }
}
