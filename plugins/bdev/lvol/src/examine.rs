//! Bdevs that are added and removed. They may hold a store, or be the parent of volumes.

use crate::stores::{all, load};
use drivebay_sdk::bdev::Examine;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long a method waits for bdevs that are being examined.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

static EXAMINING: OnApp<Examining> = OnApp::new();

/// The examinations of bdevs that have not ended.
#[derive(Debug, Default)]
struct Examining {
    last: Cell<u64>,
    /// Names of the bdevs, by the number of the examination.
    names: RefCell<BTreeMap<u64, String>>,
    ended: Notify,
}

/// Examines a new bdev. It may hold a store, or be the parent that volumes wait for. `[app thread]`
pub(crate) fn examine(_: &App, examine: Examine) {
    let Ok(examining) = EXAMINING.get_or_init(Examining::default) else {
        return;
    };
    let under_way = UnderWay::new(examining, examine.name());
    let look = async move {
        under_way.turn().await;
        look(&under_way.name).await;
        drop((under_way, examine));
    };
    if let Ok(task) = task::spawn("lvol examine", look) {
        task.detach();
    }
}

async fn look(name: &str) {
    // A removed bdev may return before its old store has left the bus.
    let is_leaving = || all().iter().any(|store| store.base_name == name && store.is_ending.get());
    let left = async {
        while is_leaving() {
            task::sleep(Duration::from_millis(5)).await;
        }
    };
    _ = task::timeout(SETTLE_LIMIT, left).await;
    // If a bdev is created while the plugin starts, the bus shows the bdev twice.
    if !all().iter().any(|store| store.base_name == name) {
        match load(name).await {
            Ok(Some(store)) => info!("bdev {name} holds store {}", store.uuid),
            Ok(None) => {}
            Err(error) => warn!("bdev {name} is not used: {error}"),
        }
    }
    all().iter().for_each(|store| store.publish_degraded());
}

/// Counts a bdev as being examined, until this is dropped.
struct UnderWay {
    examining: Rc<Examining>,
    number: u64,
    name: String,
}

impl UnderWay {
    fn new(examining: Rc<Examining>, name: &str) -> Self {
        let number = examining.last.get() + 1;
        examining.last.set(number);
        examining.names.borrow_mut().insert(number, name.to_owned());
        Self { examining, number, name: name.to_owned() }
    }

    /// Waits until earlier examinations of a bdev of this name have ended.
    async fn turn(&self) {
        let is_first = || {
            let names = self.examining.names.borrow();
            !names.range(..self.number).any(|(_, name)| *name == self.name)
        };
        self.examining.ended.until(is_first).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.examining.names.borrow_mut().remove(&self.number);
        self.examining.ended.notify();
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

/// Takes the volumes of a store off the bus, because the store's base is leaving it. The bus already refuses I/O to the
/// base, so the plugin cannot close the store cleanly. `[app thread]`
pub(crate) fn base_removed(base: &str) {
    for store in all().into_iter().filter(|store| store.base_name == base) {
        // The bdev may return before the task below begins.
        store.is_ending.set(true);
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

/// Takes volumes off the bus, because their parent outside of the store is leaving it. They are degraded until it comes
/// back.
pub(crate) fn parent_removed(parent: &[u8]) {
    let parent = parent.to_vec();
    let gone = async move {
        for store in all() {
            let mut degraded = Vec::new();
            for info in store.store.volumes() {
                let is_on_it = store.store.external_ancestor(info.id).as_ref() == Some(&parent);
                // A volume with faults is not on the bus, and must not get there.
                if !is_on_it || !info.faults.is_empty() {
                    continue;
                }
                if let Err(error) = store.unpublish(info.id).await {
                    warn!("volume {} of store {}: {error}", info.name, store.uuid);
                }
                degraded.push((info.id, String::new()));
            }
            // Not earlier: the examination of another bdev would put them back on the parent that is leaving.
            store.degraded.borrow_mut().extend(degraded);
            store.store.disk().forget_external(&parent);
        }
    };
    if let Ok(task) = task::spawn("lvol parent removed", gone) {
        task.detach();
    }
}
