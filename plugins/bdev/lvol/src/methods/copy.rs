//! Copies of a read-only volume to another bdev. A shallow copy has only the clusters that the volume owns itself. A deep
//! copy has everything that the volume reads: the other bdev, which may be a volume of another store, then reads the same.

use super::{failed, method};
use crate::source::{OpenBdev, Source};
use crate::stores;
use drivebay_blobstore::Place;
use drivebay_sdk::bdev::Claim;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::thread;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Copies are read and written in pieces of this many bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// A shallow copy lets other tasks run after it has skipped this many clusters.
const SKIPPED_MAX: u32 = 4096;
/// Maximum number of copies that run or whose result nobody has read.
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
    /// How the copy ended.
    result: RefCell<Option<Result<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Shallow,
    Deep,
}

params! {
    /// Parameters of `bdev_lvol_start_shallow_copy`.
    pub struct Shallow {
        /// UUID or alias of the volume. It must be read-only.
        src_lvol_name: String,
        /// Bdev to write to. It must be at least as large as the volume.
        dst_bdev_name: String,
    }

    /// Parameters of `bdev_lvol_start_deep_copy`.
    pub struct Deep {
        /// UUID or alias of the volume. It must be read-only, such as a snapshot.
        src_lvol_name: String,
        /// Bdev to write to. It must be at least as large as the volume.
        dst_bdev_name: String,
        /// Maximum speed of the copy, in MiB per second. 0 = no limit.
        max_bandwidth_mb_sec: u64 = 0,
    }

    /// Parameters of the methods that say how far a copy is.
    pub struct CopyStatus {
        /// ID that the start of the copy returned.
        operation_id: u32,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_start_shallow_copy",
        "Starts a copy of the clusters that a volume has allocated itself to a bdev.",
        "ID of the copy.",
        async |params: Shallow| {
            start(&params.src_lvol_name, &params.dst_bdev_name, Kind::Shallow, 0)
        },
    )?;
    method(
        app,
        "bdev_lvol_check_shallow_copy",
        "Returns the progress of a shallow copy. When the copy has ended, the host forgets it after this answer.",
        "Progress and state of the copy.",
        async |params: CopyStatus| check(params.operation_id),
    )?;
    method(
        app,
        "bdev_lvol_start_deep_copy",
        "Starts a copy of all data of a volume, including its parents' data, to a bdev. The bdev may be a volume of another store.",
        "ID of the copy.",
        async |params: Deep| {
            let rate = params.max_bandwidth_mb_sec;
            start(&params.src_lvol_name, &params.dst_bdev_name, Kind::Deep, rate)
        },
    )?;
    method(
        app,
        "bdev_lvol_check_deep_copy",
        "Returns the progress of a deep copy. When the copy has ended, the host forgets it after this answer.",
        "Progress and state of the copy.",
        async |params: CopyStatus| check(params.operation_id),
    )
}

fn start(from: &str, to: &str, kind: Kind, max_bandwidth_mb_sec: u64) -> Result<Value, RpcError> {
    let (store, info) = stores::find(from)?;
    let opened = Source::open(store, info, kind.name());
    let from = opened.map_err(|error| failed(&error))?;
    let to = OpenBdev::new(to, Some(Claim::ExclusiveWrite)).map_err(|error| failed(&error))?;
    check_target(&from, &to).map_err(|error| failed(&error))?;

    let total = match kind {
        Kind::Shallow => from.info.num_allocated_clusters,
        Kind::Deep => from.info.num_clusters,
    };
    let progress = Rc::new(Progress { total: total.into(), ..Progress::default() });
    let copies = COPIES.get_or_init(Copies::default)?;
    let operation_id = copies.add(&progress)?;
    let run = async move {
        let pace = Pace::new(max_bandwidth_mb_sec);
        let result = copy(&from, &to, kind, pace, &progress).await;
        progress.result.replace(Some(result));
    };
    match task::spawn(kind.name(), run) {
        Ok(task) => task.detach(),
        Err(error) => {
            copies.all.borrow_mut().remove(&operation_id);
            return Err(failed(&error));
        }
    }
    Ok(json!({ "operation_id": operation_id }))
}

fn check_target(from: &Source, to: &OpenBdev) -> Result<()> {
    let info = to.io.desc().info()?;
    let size = u64::from(from.info.num_clusters) * from.cluster_size();
    if info.num_blocks().saturating_mul(info.block_size().into()) < size {
        return Err(Error::new(errno::EINVAL, "the bdev is smaller than the volume"));
    }
    if !from.store.store.super_block().io_unit_size.is_multiple_of(info.block_size()) {
        let why = "the store's block size is not a multiple of the bdev's";
        return Err(Error::new(errno::EINVAL, why));
    }
    Ok(())
}

async fn copy(
    from: &Source,
    to: &OpenBdev,
    kind: Kind,
    mut pace: Pace,
    progress: &Progress,
) -> Result<()> {
    let held = from.store.store.begin(from.info.id, kind.name());
    let _held = held.map_err(stores::error)?;
    let size = from.cluster_size();
    for index in 0..from.info.num_clusters {
        let start = u64::from(index) * size;
        match (from.place(index), kind) {
            (Place::Own(_), _) | (Place::Inherited(_) | Place::External(_), Kind::Deep) => {
                copy_range(from, to, start, size, &mut pace).await?;
            }
            (Place::Zero, Kind::Deep) => {
                to.check()?;
                to.io.write_zeroes(to.blocks(start, size)).await?;
            }
            (_, Kind::Shallow) => {
                if index.is_multiple_of(SKIPPED_MAX) {
                    task::yield_now().await;
                }
                continue;
            }
        }
        progress.copied.set(progress.copied.get() + 1);
    }
    if to.io.desc().info()?.ops().contains(OpSet::FLUSH) { to.io.flush().await } else { Ok(()) }
}

async fn copy_range(
    from: &Source,
    to: &OpenBdev,
    start: u64,
    bytes: u64,
    pace: &mut Pace,
) -> Result<()> {
    let mut done = 0;
    while done < bytes {
        let now = (bytes - done).min(PIECE_BYTES);
        let data = from.read(start + done, now).await?;
        to.check()?;
        to.io.write(to.blocks(start + done, now), data).await?;
        done += now;
        pace.wait_after(now).await;
    }
    Ok(())
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Shallow => "shallow copy",
            Self::Deep => "deep copy",
        }
    }
}

/// Keeps a copy at or below its bandwidth.
struct Pace {
    bytes_per_sec: u64,
    began_ns: u64,
    bytes: u64,
}

impl Pace {
    fn new(mb_sec: u64) -> Self {
        Self { bytes_per_sec: mb_sec.saturating_mul(1 << 20), began_ns: thread::now_ns(), bytes: 0 }
    }

    async fn wait_after(&mut self, bytes: u64) {
        self.bytes += bytes;
        let ns = u128::from(self.bytes) * 1_000_000_000;
        if let Some(ns) = ns.checked_div(self.bytes_per_sec.into()) {
            task::sleep_until(self.began_ns + u64::try_from(ns).unwrap_or(u64::MAX / 2)).await;
        }
    }
}

impl Copies {
    /// Adds a copy and returns its id. If there are too many copies, forgets the oldest one that has ended.
    fn add(&self, progress: &Rc<Progress>) -> Result<u32> {
        let mut all = self.all.borrow_mut();
        if all.len() >= COPIES_MAX {
            let ended = all.iter().find(|(_, copy)| copy.result.borrow().is_some());
            let ended = ended.map(|(id, _)| *id);
            let Some(ended) = ended else {
                let message = format!("{COPIES_MAX} copies run; wait until one has ended");
                return Err(Error::new(errno::EBUSY, message));
            };
            all.remove(&ended);
        }
        let id = self.last.get() + 1;
        self.last.set(id);
        all.insert(id, Rc::clone(progress));
        Ok(id)
    }
}

fn check(id: u32) -> Result<Value, RpcError> {
    let copies = COPIES.get().ok_or_else(Error::no_such_device)?;
    let found = copies.all.borrow().get(&id).cloned();
    let progress = found.ok_or_else(Error::no_such_device)?;
    let state = match &*progress.result.borrow() {
        None => "in progress",
        Some(Ok(())) => "complete",
        Some(Err(_)) => "error",
    };
    let mut reported = json!({
        "copied_clusters": progress.copied.get(),
        "total_clusters": progress.total,
        "state": state,
    });
    let result = progress.result.borrow();
    if let (Some(Err(error)), Some(reported)) = (&*result, reported.as_object_mut()) {
        reported.insert("error".to_owned(), error.message().into());
    }
    if result.is_some() {
        copies.all.borrow_mut().remove(&id);
    }
    Ok(reported)
}
