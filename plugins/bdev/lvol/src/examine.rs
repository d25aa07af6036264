//! Bdevs that come and go: they may hold a store, carry one, or be the parent of volumes.

use crate::stores::{all, load};
use drivebay_sdk::bdev::Examine;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How long a method waits for bdevs that are being looked at.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

static EXAMINING: OnApp<Examining> = OnApp::new();

/// Bdevs that are being looked at.
#[derive(Debug, Default)]
struct Examining {
    count: Cell<usize>,
    ended: Notify,
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

/// The base of a store goes away: its volumes leave the bus. `[app thread]`
pub(crate) fn base_is_gone(base: &str) {
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
