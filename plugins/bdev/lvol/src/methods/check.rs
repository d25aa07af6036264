//! Methods that check and repair stores.

use super::{failed, method, store_failed};
use crate::base::BaseDisk;
use crate::stores::{self, LvStore};
use drivebay_blobstore::{Report, check, repair};
use drivebay_sdk::bdev::{Claim, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::runtime::task;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a repair waits until the closed store has given the bdev back.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

params! {
    /// Parameters of `bdev_lvol_check_lvstore`.
    pub struct Check {
        /// Bdev that holds the store, whether it is open or not.
        bdev_name: String,
    }

    /// Parameters of `bdev_lvol_repair_lvstore`.
    pub struct Repair {
        /// Bdev that holds the store.
        bdev_name: String,
        /// Whether to write the repairs. The volumes of a store that is open leave the bus and come back.
        write: bool = false,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_check_lvstore",
        "Reads all metadata of a store and says what is wrong with it. Nothing is written.",
        "What was found, each with its severity and whether it can be repaired.",
        async |params: Check| look(&params.bdev_name).await,
    )?;
    method(
        app,
        "bdev_lvol_repair_lvstore",
        "Repairs what has one right answer, and leaves the rest as it is.",
        "What is left, as bdev_lvol_check_lvstore says it.",
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

async fn look(bdev: &str) -> Result<Report, RpcError> {
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
        // Work of the store that has not ended yet, such as giving clusters back, has the bdev open a moment longer.
        let released = async {
            while desc.strong_count() > 0 {
                task::sleep(Duration::from_millis(1)).await;
            }
        };
        _ = task::timeout(RELEASE_LIMIT, released).await;
    }
    let opened = App::here(|app| {
        let desc = open(app, bdev, true, |_, _| {})?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        Ok(Arc::new(desc))
    });
    let desc = opened.and_then(|opened| opened).map_err(|error| failed(&error))?;
    let repaired = repair(BaseDisk::new(&desc)?).await.map(drop);
    drop(desc);
    // The volumes come back even when the repair has failed.
    let loaded = stores::load(bdev).await;
    repaired.map_err(store_failed)?;
    loaded.map(drop).map_err(|error| failed(&error))
}
