//! Bdevs that come and go. They may hold a store, or be the parent of volumes.

use crate::stores::{all, load};
use drivebay_sdk::bdev::Examine;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// How long a method waits for bdevs that are being examined.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

static EXAMINING: OnApp<Examining> = OnApp::new();

/// Names of the bdevs that are being examined.
#[derive(Debug, Default)]
struct Examining {
    names: RefCell<BTreeSet<String>>,
    ended: Notify,
}

/// Examines a new bdev. It may hold a store, or be the parent that volumes wait for. `[app thread]`
pub(crate) fn examine(_: &App, examine: Examine) {
    let Ok(examining) = EXAMINING.get_or_init(Examining::default) else {
        return;
    };
    let name = examine.name().to_owned();
    // The bus shows a bdev twice if it comes while the plugin starts.
    let is_ours = all().iter().any(|store| store.base_name == name);
    if is_ours || !examining.names.borrow_mut().insert(name.clone()) {
        return;
    }
    let under_way = UnderWay(examining, name.clone());
    let look = async move {
        let _under_way = under_way;
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

/// Counts a bdev as being examined, until this is dropped.
struct UnderWay(Rc<Examining>, String);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.names.borrow_mut().remove(&self.1);
        self.0.ended.notify();
    }
}

/// Waits until the plugin has examined every bdev, so that the first method call finds all stores. The wait is
/// limited, in case a bdev does not answer.
pub(crate) async fn settled() {
    task::yield_now().await;
    if let Some(examining) = EXAMINING.get() {
        let ended = examining.ended.until(|| examining.names.borrow().is_empty());
        _ = task::timeout(SETTLE_LIMIT, ended).await;
    }
}

/// Takes the volumes of a store off the bus, because the store's base goes away. The bus refuses I/O to the base by
/// now, so the store cannot be closed in order. `[app thread]`
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

/// Takes volumes off the bus, because their parent outside of the store goes away. They are degraded until it comes
/// back.
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
