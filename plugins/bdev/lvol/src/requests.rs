//! Requests of the data path to the store: to allocate clusters for a volume, and to take clusters away.
//!
//! One task per volume serves the requests of its channels, in batches. Clusters that the store takes away
//! become free when no earlier I/O can reach them any more.

use crate::stores::{LvStore, STORES};
use crate::volume::ThreadState;
use drivebay_blobstore::{BlobId, Error as StoreError, Unused};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::runtime::task;
use drivebay_sdk::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Maximum number of clusters of one volume that share one flush.
const BATCH_MAX: usize = 64;
/// How long a write waits for clusters that are about to become free.
const RECYCLE_LIMIT: Duration = Duration::from_millis(100);
/// How long clusters wait for a volume that leaves the bus.
const LEAVING_NS: u64 = 5_000_000_000;

/// Clusters, each with the channels that wait for it.
type Wanted = BTreeMap<u32, Vec<Resident<ThreadState>>>;

/// What a channel waits for at one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Waits for the end of a change in progress.
    Settled,
    /// The allocation of the cluster to the volume.
    Cluster,
}

/// Open requests of the channels of a volume.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    settled: Vec<(u32, Resident<ThreadState>)>,
    clusters: Wanted,
    unmaps: Vec<Unmap>,
    is_served: bool,
    /// Number of operations that hold the requests back.
    frozen_by: u32,
}

/// A request to take whole clusters away.
#[derive(Debug)]
struct Unmap {
    indices: Vec<u32>,
    /// The channel's number for the request.
    job: u64,
    channel: Resident<ThreadState>,
}

/// The next work for a volume.
enum Work {
    Unmaps(Vec<Unmap>),
    Settled(Vec<(u32, Resident<ThreadState>)>),
    Clusters(Wanted),
}

/// Waits for one cluster. The store answers with [`ThreadState::answered`]. `[reactor]`
pub(crate) fn wait_for(
    store: &str,
    id: BlobId,
    index: u32,
    need: Need,
    channel: Resident<ThreadState>,
) {
    with_store(store, move |store| match store {
        Some(store) => store.take(id, |requests| match need {
            Need::Settled => requests.settled.push((index, channel)),
            Need::Cluster => requests.clusters.entry(index).or_default().push(channel),
        }),
        None => answer(&channel, index, Status::IO_ERROR),
    });
}

/// Requests to take whole clusters away. The store answers with [`ThreadState::unmapped`]. `[reactor]`
pub(crate) fn unmap(
    store: &str,
    id: BlobId,
    indices: Vec<u32>,
    job: u64,
    channel: Resident<ThreadState>,
) {
    with_store(store, move |store| {
        let unmap = Unmap { indices, job, channel };
        match store {
            Some(store) => store.take(id, |requests| requests.unmaps.push(unmap)),
            None => unmap.answer(&BTreeSet::new()),
        }
    });
}

fn with_store(store: &str, call: impl FnOnce(Option<Rc<LvStore>>) + Send + 'static) {
    let store = store.to_owned();
    // A store of this channel was opened, so the list of stores exists.
    if let Some(stores) = STORES.handle() {
        stores.send(move |stores| {
            let found = stores.borrow().iter().find(|other| other.uuid == store).cloned();
            call(found);
        });
    }
}

fn answer(channel: &Resident<ThreadState>, index: u32, status: Status) {
    let own = channel.clone();
    channel.send(move |state| state.answered(&own, index, status));
}

impl Unmap {
    fn answer(self, released: &BTreeSet<u32>) {
        let Self { indices, job, channel } = self;
        let kept: Vec<u32> =
            indices.into_iter().filter(|index| !released.contains(index)).collect();
        channel.send(move |state| state.unmapped(job, &kept));
    }
}

impl LvStore {
    fn take(self: &Rc<Self>, id: BlobId, add: impl FnOnce(&mut Requests)) {
        add(self.requests.borrow_mut().entry(id).or_default());
        self.serve(id);
    }

    /// Holds the requests of the channels back until [`thaw_requests`](Self::thaw_requests).
    pub(crate) fn freeze_requests(&self, id: BlobId) {
        self.requests.borrow_mut().entry(id).or_default().frozen_by += 1;
    }

    /// Whether a [`freeze_requests`](Self::freeze_requests) has not ended yet.
    pub(crate) fn is_frozen(&self, id: BlobId) -> bool {
        self.requests.borrow().get(&id).is_some_and(|requests| requests.frozen_by > 0)
    }

    /// Ends one [`freeze_requests`](Self::freeze_requests).
    pub(crate) fn thaw_requests(self: &Rc<Self>, id: BlobId) {
        if let Some(requests) = self.requests.borrow_mut().get_mut(&id) {
            requests.frozen_by = requests.frozen_by.saturating_sub(1);
        }
        self.serve(id);
    }

    /// Starts the task of a volume, unless it runs already or is held back.
    fn serve(self: &Rc<Self>, id: BlobId) {
        {
            let mut all = self.requests.borrow_mut();
            let Some(requests) = all.get_mut(&id) else { return };
            if requests.is_served || requests.frozen_by > 0 {
                return;
            }
            requests.is_served = true;
        }
        let this = Rc::clone(self);
        let serve = async move {
            while let Some(work) = this.next_work(id) {
                match work {
                    Work::Unmaps(unmaps) => this.release(id, unmaps).await,
                    Work::Settled(settled) => {
                        for (index, channel) in settled {
                            answer(&channel, index, Status::SUCCESS);
                        }
                    }
                    Work::Clusters(wanted) => this.allocate(id, wanted).await,
                }
            }
        };
        match task::spawn("lvol clusters", serve) {
            Ok(task) => task.detach(),
            Err(error) => {
                warn!("{error}");
                self.refuse_all(id);
            }
        }
    }

    /// Takes the next work. `None` when nothing is left, or the requests are held back.
    fn next_work(&self, id: BlobId) -> Option<Work> {
        let mut all = self.requests.borrow_mut();
        let requests = all.get_mut(&id)?;
        if requests.frozen_by > 0 {
            requests.is_served = false;
            return None;
        }
        if !requests.unmaps.is_empty() {
            return Some(Work::Unmaps(std::mem::take(&mut requests.unmaps)));
        }
        if !requests.settled.is_empty() {
            return Some(Work::Settled(std::mem::take(&mut requests.settled)));
        }
        let mut wanted = Wanted::new();
        while wanted.len() < BATCH_MAX
            && let Some((index, channels)) = requests.clusters.pop_first()
        {
            wanted.insert(index, channels);
        }
        if wanted.is_empty() {
            all.remove(&id);
            return None;
        }
        Some(Work::Clusters(wanted))
    }

    fn refuse_all(&self, id: BlobId) {
        let Some(requests) = self.requests.borrow_mut().remove(&id) else { return };
        let refused = Status::errno(errno::EAGAIN);
        for (index, channels) in requests.clusters {
            channels.iter().for_each(|one| answer(one, index, refused));
        }
        requests.settled.into_iter().for_each(|(index, one)| answer(&one, index, refused));
        requests.unmaps.into_iter().for_each(|unmap| unmap.answer(&BTreeSet::new()));
    }

    async fn allocate(&self, id: BlobId, wanted: Wanted) {
        let batch: Vec<u32> = wanted.keys().copied().collect();
        let mut all = self.allocate_some(id, &batch).await;
        for (index, channels) in wanted {
            // When not all clusters fit, allocate as many as do.
            if all.is_err() && batch.len() > 1 {
                all = self.allocate_some(id, &[index]).await;
            }
            let status = match &all {
                Ok(()) => {
                    self.show_place(id, index);
                    Status::SUCCESS
                }
                Err(error) => Status::errno(error.errno),
            };
            channels.iter().for_each(|one| answer(one, index, status));
        }
    }

    async fn allocate_some(&self, id: BlobId, indices: &[u32]) -> Result<(), StoreError> {
        let done = self.store.allocate(id, indices).await;
        self.watch_fill();
        if !matches!(&done, Err(error) if error.errno == errno::ENOSPC) {
            return done;
        }
        let recycled = async {
            while self.is_recycling.get() {
                task::sleep(Duration::from_millis(1)).await;
            }
        };
        _ = task::timeout(RECYCLE_LIMIT, recycled).await;
        let done = self.store.allocate(id, indices).await;
        self.watch_fill();
        done
    }

    /// Updates the data path's entry of a cluster.
    fn show_place(&self, id: BlobId, index: u32) {
        if let Some(shared) = self.maps.borrow().get(&id) {
            shared.map().set(index, self.store.place(id, index));
        }
    }

    async fn release(self: &Rc<Self>, id: BlobId, unmaps: Vec<Unmap>) {
        let wanted: BTreeSet<u32> =
            unmaps.iter().flat_map(|unmap| &unmap.indices).copied().collect();
        let begins = |indices: &[u32]| {
            self.releasing.borrow_mut().insert(id, indices.to_vec());
            if let Some(shared) = self.maps.borrow().get(&id) {
                let map = shared.map();
                indices.iter().for_each(|index| map.set_changing(*index));
            }
        };
        let done = self.store.release(id, &Vec::from_iter(wanted), begins).await;
        let begun = self.releasing.borrow_mut().remove(&id).unwrap_or_default();
        begun.iter().for_each(|index| self.show_place(id, *index));
        let mut released = BTreeSet::new();
        match done {
            Ok(done) => {
                released.extend(&done.indices);
                self.recycle(id, self.blocks_of(&done.indices), done.unused);
            }
            Err(error) => warn!("clusters of store {} are not released: {error}", self.uuid),
        }
        unmaps.into_iter().for_each(|unmap| unmap.answer(&released));
    }

    /// Makes clusters free, after all earlier I/O to `blocks` of the volume has ended.
    pub(crate) fn recycle(self: &Rc<Self>, id: BlobId, blocks: Vec<Range>, unused: Unused) {
        self.unused.borrow_mut().push((id, blocks, unused));
        if self.is_recycling.replace(true) {
            return;
        }
        let this = Rc::clone(self);
        let recycle = async move {
            while let Some((id, blocks, unused)) = this.next_unused() {
                match this.drain_all(id, blocks).await {
                    Ok(()) => this.free(unused).await,
                    // Older I/O may still reach the clusters, so they stay allocated until the store is opened
                    // again.
                    Err(error) => warn!("store {}: clusters stay allocated: {error}", this.uuid),
                }
            }
            this.is_recycling.set(false);
        };
        match task::spawn("lvol recycle", recycle) {
            Ok(task) => task.detach(),
            // The next call also handles what stays in the list.
            Err(error) => {
                warn!("{error}");
                self.is_recycling.set(false);
            }
        }
    }

    /// Waits for the I/O of a volume, and of all volumes that read through it.
    async fn drain_all(&self, id: BlobId, blocks: Vec<Range>) -> Result<()> {
        let deadline_ns = thread::now_ns() + LEAVING_NS;
        for id in self.store.family(id) {
            for blocks in blocks.iter().copied() {
                while let Err(error) = self.drain(id, blocks).await {
                    // The bus cannot quiesce a volume that is leaving. Once the volume is gone, its I/O has ended.
                    if error.errno() != errno::ENODEV || thread::now_ns() > deadline_ns {
                        return Err(error);
                    }
                    task::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        Ok(())
    }

    /// Makes clusters free. No I/O to them is in flight.
    pub(crate) async fn free(&self, unused: Unused) {
        self.store.recycle(unused).await;
        self.watch_fill();
    }

    fn next_unused(&self) -> Option<(BlobId, Vec<Range>, Unused)> {
        self.unused.borrow_mut().pop()
    }

    /// The blocks of some clusters of a volume. Neighbors form one range.
    fn blocks_of(&self, indices: &[u32]) -> Vec<Range> {
        let per_cluster = self.store.super_block().blocks_per_cluster();
        let mut ranges: Vec<Range> = Vec::new();
        for index in indices {
            let lba = u64::from(*index) * per_cluster;
            match ranges.last_mut() {
                Some(last) if last.lba + last.nblocks == lba => last.nblocks += per_cluster,
                _ => ranges.push(Range::new(lba, per_cluster)),
            }
        }
        ranges
    }
}
