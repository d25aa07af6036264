//! Shallow copies: the clusters of a read-only volume's own, written to another bdev.

use super::{failed, method};
use crate::stores::{self, LvStore};
use drivebay_blobstore::{Disk, Info, Place};
use drivebay_sdk::bdev::{Claim, open};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Copies are read and written in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;
/// Ended copies that nobody asked about are kept up to this number.
const COPIES_MAX: usize = 1024;

static COPIES: OnApp<Copies> = OnApp::new();

#[derive(Debug, Default)]
struct Copies {
    last: Cell<u32>,
    all: RefCell<BTreeMap<u32, Rc<Progress>>>,
}

#[derive(Debug, Default)]
struct Progress {
    total: u64,
    copied: Cell<u64>,
    error: RefCell<Option<Error>>,
}

params! {
    /// Parameters of `bdev_lvol_start_shallow_copy`.
    pub struct Start {
        /// UUID or alias of the volume, which must be read-only.
        src_lvol_name: String,
        /// Bdev that is written: at least as large as the volume.
        dst_bdev_name: String,
    }

    /// Parameters of `bdev_lvol_check_shallow_copy`.
    pub struct Check {
        /// What the start answered.
        operation_id: u32,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_start_shallow_copy",
        "Starts to copy the clusters that a volume has itself to a bdev.",
        "The id of the operation.",
        start,
    )?;
    method(
        app,
        "bdev_lvol_check_shallow_copy",
        "Says how far a shallow copy is. An ended one is forgotten with the answer.",
        "Progress and state.",
        async |params: Check| check(params.operation_id),
    )
}

async fn start(params: Start) -> Result<Value, RpcError> {
    let (store, info) = stores::find(&params.src_lvol_name)?;
    let refused = |why: &str| Err(failed(&Error::new(errno::EPERM, why)));
    if !info.is_read_only {
        return refused("the volume is not read-only");
    }
    let opened = App::here(|app| {
        let desc = open(app, &params.dst_bdev_name, true, |_, _| {})?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        Ok(desc)
    });
    let desc = opened.and_then(|opened| opened).map_err(|error| failed(&error))?;
    let to = desc.info()?;
    let size = u64::from(info.num_clusters) * u64::from(store.store.super_block().cluster_size);
    if to.num_blocks().saturating_mul(to.block_size().into()) < size {
        return Err(failed(&Error::new(errno::EINVAL, "the bdev is smaller than the volume")));
    }
    if !store.store.super_block().io_unit_size.is_multiple_of(to.block_size()) {
        let why = "the store's block size is no multiple of the bdev's";
        return Err(failed(&Error::new(errno::EINVAL, why)));
    }
    let io = BlockIo::new(&Arc::new(desc)).map_err(|error| failed(&error))?;

    let copies = COPIES.get_or_init(Copies::default)?;
    let operation_id = copies.last.get() + 1;
    copies.last.set(operation_id);
    let total = u64::from(info.num_allocated_clusters);
    let progress = Rc::new(Progress { total, ..Progress::default() });
    let mut all = copies.all.borrow_mut();
    if all.len() >= COPIES_MAX {
        all.pop_first();
    }
    all.insert(operation_id, Rc::clone(&progress));
    let run = async move {
        if let Err(error) = copy(&store, &info, &io, &progress).await {
            progress.error.replace(Some(error));
        }
    };
    task::spawn("lvol shallow copy", run).map_err(|error| failed(&error))?.detach();
    Ok(json!({ "operation_id": operation_id }))
}

async fn copy(store: &LvStore, info: &Info, to: &BlockIo, progress: &Progress) -> Result<()> {
    let block = u64::from(to.block_size());
    let size = store.store.super_block().cluster_size as usize;
    for index in 0..info.num_clusters {
        let Place::Own(cluster) = store.store.place(info.id, index) else {
            continue;
        };
        let mut done = 0;
        while done < size {
            let len = (size - done).min(PIECE_BYTES);
            let from = store.store.cluster_offset(cluster) + done as u64;
            let data = store.store.disk().read(from, len).await;
            let data = data.map_err(|error| Error::new(error.0, error.to_string()))?;
            let at = u64::from(index) * size as u64 + done as u64;
            let mut buf = to.buffer(len as u64 / block)?;
            buf.copy_from_slice(&data);
            to.write(Range::new(at / block, len as u64 / block), buf).await?;
            done += len;
        }
        progress.copied.set(progress.copied.get() + 1);
    }
    Ok(())
}

fn check(id: u32) -> Result<Value, RpcError> {
    let copies = COPIES.get().ok_or_else(Error::no_such_device)?;
    let found = copies.all.borrow().get(&id).cloned();
    let progress = found.ok_or_else(Error::no_such_device)?;
    let (copied, total) = (progress.copied.get(), progress.total);
    let counts =
        |state| json!({"copied_clusters": copied, "total_clusters": total, "state": state});
    if let Some(error) = &*progress.error.borrow() {
        copies.all.borrow_mut().remove(&id);
        return Ok(json!({
            "copied_clusters": copied,
            "total_clusters": total,
            "state": "error",
            "error": error.message(),
        }));
    }
    if copied < total {
        return Ok(counts("in progress"));
    }
    copies.all.borrow_mut().remove(&id);
    Ok(counts("complete"))
}
