//! Clusters: finding, allocating, filling and releasing them; resize and inflate.

use crate::disk::Disk;
use crate::error::{Error, Result, errno};
use crate::load::ClearMethod;
use crate::snapshot::Parent;
use crate::store::Store;
use crate::volume::size_in_clusters;
use drivebay_spec_blobstore::{Blob, BlobId, CLUSTERS_PER_PAGE, Descriptor, Flags, Page};
use std::collections::BTreeSet;

/// Size of the pieces in which clusters are copied, in bytes.
const COPY_BYTES: u64 = 1 << 20;

/// Where the data of a volume's cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the volume's own cluster, which may be written.
    Own(u32),
    /// In a cluster of an ancestor, which must not be written.
    Inherited(u32),
    /// On a disk outside of the store. That disk is the parent of this blob, which is the volume itself or one of its
    /// ancestors.
    External(BlobId),
    /// Nowhere: the cluster reads as zeros.
    Zero,
}

/// Clusters that no volume owns any more. Earlier I/O may still access them, so the store does not allocate
/// them again before [`Store::recycle`].
#[derive(Debug)]
#[must_use = "the clusters stay in use until they are recycled"]
pub struct Unused {
    clusters: Vec<u32>,
    method: ClearMethod,
}

/// The clusters that a volume has released.
#[derive(Debug)]
pub struct Released {
    /// Indices of the clusters in the volume, in order.
    pub indices: Vec<u32>,
    /// The clusters on the disk.
    pub unused: Unused,
}

/// Clusters reserved for an operation. Dropping it frees the clusters that are still in the list.
pub(crate) struct ClaimedClusters<'a, D> {
    store: &'a Store<D>,
    pub(crate) list: Vec<u32>,
}

impl<D> Drop for ClaimedClusters<'_, D> {
    fn drop(&mut self) {
        let mut state = self.store.state.borrow_mut();
        for cluster in &self.list {
            state.used_clusters.clear(*cluster);
        }
    }
}

/// How to clear a blob's clusters when they are freed.
fn clear_method(blob: &Blob) -> ClearMethod {
    match blob.flags.md_read_only & Flags::CLEAR_METHOD {
        1 => ClearMethod::None,
        3 => ClearMethod::WriteZeroes,
        _ => ClearMethod::Unmap,
    }
}

impl<D: Disk> Store<D> {
    /// Where the data of cluster `index` of a volume is. Past the end of an ancestor it is zeros.
    #[must_use]
    pub fn place(&self, id: BlobId, index: u32) -> Place {
        let own =
            self.state.borrow().volumes.get(&id).and_then(|volume| volume.blob.map.get(index));
        own.map_or_else(|| self.place_below(id, index), Place::Own)
    }

    /// Where the data of cluster `index` of a volume is, if the volume does not own the cluster.
    fn place_below(&self, id: BlobId, index: u32) -> Place {
        let state = self.state.borrow();
        let mut next = Some(id);
        while let Some(ancestor) = next {
            let Some(volume) = state.volumes.get(&ancestor) else {
                return Place::Zero;
            };
            let blob = &volume.blob;
            if index >= blob.map.len() {
                return Place::Zero;
            }
            match blob.map.get(index) {
                Some(cluster) if ancestor != id => return Place::Inherited(cluster),
                _ if blob.is_external_clone() => return Place::External(ancestor),
                _ => next = blob.parent(),
            }
        }
        Place::Zero
    }

    /// Byte offset on the disk of a cluster.
    #[must_use]
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        self.state.borrow().block.cluster_offset(cluster)
    }

    /// Allocates clusters for a volume at `indices` and fills them with the data that the volume reads there.
    /// Skips indices where the volume already has a cluster.
    ///
    /// # Errors
    /// `ENOSPC`, or the disk's error. After an error nothing has changed.
    pub async fn allocate(&self, id: BlobId, indices: &[u32]) -> Result<()> {
        let _writer = self.writer.lock().await;
        self.allocate_held(id, indices).await
    }

    async fn allocate_held(&self, id: BlobId, indices: &[u32]) -> Result<()> {
        let indices: BTreeSet<u32> = {
            let state = self.state.borrow();
            let volume = state.volumes.get(&id).filter(|volume| volume.faults.is_empty());
            let map = &volume.ok_or_else(|| crate::store::no_volume(id))?.blob.map;
            let wanted = indices.iter().filter(|index| **index < map.len());
            wanted.filter(|index| map.get(**index).is_none()).copied().collect()
        };
        let mut claimed = self.claim_clusters(u32::try_from(indices.len()).unwrap_or(u32::MAX))?;
        for (index, cluster) in indices.iter().zip(claimed.list.clone()) {
            self.fill(cluster, id, *index).await?;
        }
        // The contents of a cluster must be on disk before metadata refers to it.
        self.flush().await?;
        let mut entries = indices.iter().copied().zip(claimed.list.clone()).peekable();
        while let Some((index, _)) = entries.peek().copied() {
            let slot = index / CLUSTERS_PER_PAGE;
            let mut of_slot = Vec::new();
            while let Some(entry) = entries.next_if(|(index, _)| index / CLUSTERS_PER_PAGE == slot)
            {
                of_slot.push(entry);
            }
            self.set_entries(id, slot, &of_slot).await?;
            claimed.list.retain(|cluster| !of_slot.iter().any(|(_, taken)| taken == cluster));
        }
        Ok(())
    }

    /// Writes entries of one extent page, in place if the page exists.
    async fn set_entries(&self, id: BlobId, slot: u32, entries: &[(u32, u32)]) -> Result<()> {
        self.mark_dirty().await?;
        let first = slot * CLUSTERS_PER_PAGE;
        let in_place = {
            let state = self.state.borrow();
            let blob = &state.volumes.get(&id).ok_or_else(|| crate::store::no_volume(id))?.blob;
            let place = blob.extent_pages.get(slot as usize).copied().filter(|place| *place != 0);
            place.filter(|_| blob.uses_table).map(|place| (place, blob.map.page(slot)))
        };
        let Some((place, old)) = in_place else {
            let mut blob = self.blob(id)?;
            for (index, cluster) in entries {
                blob.map.set(*index, Some(*cluster));
            }
            return self.persist(blob, &BTreeSet::from([slot]), &BTreeSet::new()).await;
        };
        let mut new = old.clone();
        for (index, cluster) in entries {
            if let Some(entry) = new.get_mut((index - first) as usize) {
                *entry = *cluster;
            }
        }
        let page = |clusters| {
            let descriptors = vec![Descriptor::ExtentPage { start: first, clusters }];
            Page { descriptors, ..Page::new(id, 0) }.encode().to_vec()
        };
        self.replace(place, page(new), page(old)).await?;
        let mut state = self.state.borrow_mut();
        if let Some(volume) = state.volumes.get_mut(&id) {
            for (index, cluster) in entries {
                volume.blob.map.set(*index, Some(*cluster));
            }
        }
        Ok(())
    }

    /// Reserves free clusters.
    pub(crate) fn claim_clusters(&self, count: u32) -> Result<ClaimedClusters<'_, D>> {
        let mut state = self.state.borrow_mut();
        let free = state.block.total_clusters() - state.used_clusters.count();
        if free < count {
            let message = format!("{count} clusters are needed and {free} are free");
            return Err(Error::new(errno::ENOSPC, message));
        }
        let mut list = Vec::new();
        let mut from = 0;
        for _ in 0..count {
            let Some(cluster) = state.used_clusters.first_clear(from) else {
                break;
            };
            state.used_clusters.set(cluster);
            list.push(cluster);
            from = cluster + 1;
        }
        Ok(ClaimedClusters { store: self, list })
    }

    /// Fills a new cluster with the data that the volume reads at `index`.
    async fn fill(&self, cluster: u32, id: BlobId, index: u32) -> Result<()> {
        let (offset, size) = {
            let block = &self.state.borrow().block;
            (block.cluster_offset(cluster), u64::from(block.cluster_size))
        };
        let place = self.place(id, index);
        let external = match place {
            Place::Own(_) | Place::Zero => {
                return Ok(self.disk.write_zeroes(offset, size).await?);
            }
            Place::Inherited(_) => None,
            Place::External(ancestor) => self.external_name(ancestor),
        };
        let mut done = 0;
        while done < size {
            let now = (size - done).min(COPY_BYTES);
            let len = usize::try_from(now).unwrap_or(usize::MAX);
            let data = match (place, &external) {
                (Place::Inherited(parent), _) => {
                    self.disk.read(self.cluster_offset(parent) + done, len).await?
                }
                (_, Some(name)) => {
                    self.disk.read_external(name, u64::from(index) * size + done, len).await?
                }
                _ => return Err(Error::new(errno::ENODEV, "the external parent has no name")),
            };
            self.disk.write(offset + done, data).await?;
            done += now;
        }
        Ok(())
    }

    /// The name of the disk outside of the store that is the blob's parent.
    #[must_use]
    pub fn external_name(&self, id: BlobId) -> Option<Vec<u8>> {
        match Parent::of(&self.blob(id).ok()?) {
            Parent::External(name) => Some(name),
            _ => None,
        }
    }

    /// Zeroes clusters. Adjacent clusters take one request.
    pub(crate) async fn zero_clusters(&self, clusters: &[u32]) -> Result<()> {
        for (start, len) in neighbors(clusters) {
            let (offset, bytes) = self.range(start, len);
            self.disk.write_zeroes(offset, bytes).await?;
        }
        if !clusters.is_empty() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Clears clusters that no volume owns any more, and frees them. Free clusters may have any contents, so an
    /// error of the disk does no harm.
    ///
    /// There must be no I/O to these clusters in flight.
    pub async fn recycle(&self, unused: Unused) {
        for (start, len) in neighbors(&unused.clusters) {
            let (offset, bytes) = self.range(start, len);
            _ = match unused.method {
                ClearMethod::None => Ok(()),
                ClearMethod::Unmap => self.disk.unmap(offset, bytes).await,
                ClearMethod::WriteZeroes => self.disk.write_zeroes(offset, bytes).await,
            };
        }
        let mut state = self.state.borrow_mut();
        for cluster in &unused.clusters {
            state.used_clusters.clear(*cluster);
            state.unused_clusters.remove(cluster);
        }
    }

    /// Records that no volume owns these former clusters of `blob` any more.
    pub(crate) fn unused(&self, blob: &Blob, clusters: Vec<u32>) -> Unused {
        self.state.borrow_mut().unused_clusters.extend(&clusters);
        Unused { clusters, method: clear_method(blob) }
    }

    fn range(&self, start: u32, len: u32) -> (u64, u64) {
        let block = &self.state.borrow().block;
        (block.cluster_offset(start), u64::from(len) * u64::from(block.cluster_size))
    }

    /// Releases clusters of a thin volume at indices where the volume reads zeros without them. If an ancestor has
    /// data there, the volume keeps its cluster. Before the store writes anything, it calls `begins` with the
    /// indices. From then on no one may write to these clusters.
    ///
    /// # Errors
    /// The disk's error; then nothing has changed.
    pub async fn release(
        &self,
        id: BlobId,
        indices: &[u32],
        begins: impl FnOnce(&[u32]),
    ) -> Result<Released> {
        let _writer = self.writer.lock().await;
        let mut blob = self.blob(id)?;
        // Operations such as inflate rely on allocated clusters, and clones rely on those of their parent.
        let is_kept = !blob.is_thin() || self.is_busy(id) || blob.flags.is_data_read_only();
        let may_go = |index: &&u32| {
            blob.map.get(**index).is_some() && self.place_below(id, **index) == Place::Zero
        };
        let indices: BTreeSet<u32> = match is_kept {
            true => BTreeSet::new(),
            false => indices.iter().filter(may_go).copied().collect(),
        };
        let indices = Vec::from_iter(indices);
        if indices.is_empty() {
            return Ok(Released { indices, unused: self.unused(&blob, Vec::new()) });
        }
        begins(&indices);
        let slots = indices.iter().map(|index| index / CLUSTERS_PER_PAGE).collect();
        let clusters: Vec<u32> =
            indices.iter().filter_map(|index| blob.map.set(*index, None)).collect();
        self.persist(blob.clone(), &slots, &BTreeSet::new()).await?;
        Ok(Released { indices, unused: self.unused(&blob, clusters) })
    }

    /// Changes the size of a volume.
    ///
    /// Returns the removed clusters. When the volume shrinks, there must be no I/O past the new end in flight.
    ///
    /// # Errors
    /// `EPERM` for a read-only volume, `ENOSPC`, `EBUSY`, or the disk's error.
    pub async fn resize(&self, id: BlobId, num_clusters: u64) -> Result<Unused> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "resize")?;
        let mut blob = self.blob(id)?;
        if blob.flags.is_md_read_only() {
            return Err(Error::new(
                errno::EPERM,
                "the size of a read-only volume cannot be changed",
            ));
        }
        let (old, new) = (blob.map.len(), size_in_clusters(num_clusters)?);
        if old == new {
            return Ok(self.unused(&blob, Vec::new()));
        }
        let cut: Vec<u32> = (new..old).filter_map(|index| blob.map.get(index)).collect();
        blob.map.resize(new);
        let mut claimed =
            self.claim_clusters(if blob.is_thin() { 0 } else { new.saturating_sub(old) })?;
        for (index, cluster) in (old..).zip(claimed.list.clone()) {
            blob.map.set(index, Some(cluster));
        }
        self.zero_clusters(&claimed.list).await?;
        // The extent pages with the old and the new end now have another length.
        let edges = [old, new].map(|end| end.saturating_sub(1) / CLUSTERS_PER_PAGE);
        self.persist(blob.clone(), &BTreeSet::from(edges), &BTreeSet::new()).await?;
        claimed.list.clear();
        Ok(self.unused(&blob, cut))
    }

    /// Allocates all clusters that a volume reads from elsewhere, so that it becomes thick and needs no parent.
    ///
    /// # Errors
    /// `ENOSPC`, `EBUSY`, or the disk's error. Clusters copied before the error stay.
    pub async fn inflate(&self, id: BlobId) -> Result<()> {
        let _busy = self.begin(id, "inflate")?;
        let blob = self.blob(id)?;
        self.copy_up(id, (0..blob.map.len()).filter(|index| blob.map.get(*index).is_none()))
            .await?;
        let _writer = self.writer.lock().await;
        let mut blob = self.blob(id)?;
        Parent::None.set(&mut blob);
        blob.flags.invalid &= !Flags::THIN;
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Copies the data of a volume's parent into the volume, and makes the parent's parent its new parent.
    ///
    /// # Errors
    /// `EINVAL` when it has no parent, `ENOSPC`, `EBUSY`, or the disk's error.
    pub async fn decouple(&self, id: BlobId) -> Result<()> {
        let _busy = self.begin(id, "decouple parent")?;
        let blob = self.blob(id)?;
        let (wanted, parent): (Vec<u32>, _) = match Parent::of(&blob) {
            Parent::None => return Err(Error::new(errno::EINVAL, "the volume has no parent")),
            Parent::External(_) => ((0..blob.map.len()).collect(), Parent::None),
            Parent::Snapshot(parent) => {
                let parent = self.blob(parent)?;
                (parent.map.iter().map(|(index, _)| index).collect(), Parent::of(&parent))
            }
        };
        let missing = wanted.into_iter().filter(|index| blob.map.get(*index).is_none());
        self.copy_up(id, missing.filter(|index| *index < blob.map.len())).await?;
        let _writer = self.writer.lock().await;
        let mut blob = self.blob(id)?;
        parent.set(&mut blob);
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Allocates one cluster at a time, so that other operations can run in between. Checks before the first
    /// copy that enough clusters are free.
    async fn copy_up(&self, id: BlobId, indices: impl Iterator<Item = u32>) -> Result<()> {
        let indices: Vec<u32> = indices.collect();
        drop(self.claim_clusters(u32::try_from(indices.len()).unwrap_or(u32::MAX))?);
        for index in indices {
            self.allocate(id, &[index]).await?;
        }
        Ok(())
    }
}

/// Combines adjacent clusters into ranges.
fn neighbors(clusters: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cluster in clusters {
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == *cluster => *len += 1,
            _ => ranges.push((*cluster, 1)),
        }
    }
    ranges
}
