//! Operations that change parents: snapshots, clones, deletion under a clone, set parent.

use crate::disk::Disk;
use crate::error::{Error, Result, errno};
use crate::load::set_names;
use crate::persist::ClaimedId;
use crate::store::Store;
use drivebay_spec_blobstore::{Blob, BlobId, CLUSTERS_PER_PAGE, Flags, lvol};
use std::collections::BTreeSet;

/// The parent of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    None,
    Snapshot(BlobId),
    External(Vec<u8>),
}

impl Parent {
    pub(crate) fn of(blob: &Blob) -> Self {
        match (blob.is_external_clone(), blob.internal_xattr(lvol::EXTERNAL_SNAPSHOT)) {
            (true, Some(name)) => Self::External(name.to_vec()),
            _ => blob.parent().map_or(Self::None, Self::Snapshot),
        }
    }

    /// Sets the parent of a volume. No other function changes it.
    pub(crate) fn set(&self, blob: &mut Blob) {
        blob.set_internal(lvol::PARENT, None);
        blob.set_internal(lvol::EXTERNAL_SNAPSHOT, None);
        blob.flags.invalid &= !Flags::EXTERNAL_SNAPSHOT;
        match self {
            Self::None => {}
            Self::Snapshot(id) => blob.set_internal_blob(lvol::PARENT, *id),
            Self::External(name) => {
                blob.set_internal(lvol::EXTERNAL_SNAPSHOT, Some(name.clone()));
                blob.flags.invalid |= Flags::EXTERNAL_SNAPSHOT;
            }
        }
        if *self != Self::None {
            blob.flags.invalid |= Flags::THIN;
        }
    }
}

impl<D: Disk> Store<D> {
    /// Creates a snapshot. It takes over the volume's clusters and becomes its parent.
    ///
    /// There must be no write of the volume in flight.
    ///
    /// # Errors
    /// `EINVAL` for a read-only volume, `EEXIST`, `ENOSPC`, `EBUSY`, or the disk's error.
    pub async fn snapshot(&self, id: BlobId, name: &str, uuid: &str) -> Result<BlobId> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "snapshot")?;
        let origin = self.blob(id)?;
        if origin.flags.is_md_read_only() {
            return Err(Error::new(errno::EINVAL, "a read-only volume cannot have a snapshot"));
        }
        self.check_new_name(name)?;
        let claimed = self.claim_id()?;

        let mut snapshot = Blob { id: claimed.id, ..origin.clone() };
        snapshot.xattrs.clear();
        snapshot.internal.clear();
        Parent::of(&origin).set(&mut snapshot);
        set_names(&mut snapshot, name, uuid);
        snapshot.set_internal_blob(lvol::SNAPSHOT_IN_PROGRESS, id);
        let none = BTreeSet::new();
        self.persist(snapshot.clone(), &none, &none).await?;

        let mut clone = origin.clone();
        let moved = extents(&snapshot);
        let len = clone.map.len();
        clone.map.resize(0);
        clone.map.resize(len);
        clone.extent_pages = vec![0; clone.extent_pages.len()];
        clone.flags.invalid |= Flags::THIN;
        Parent::Snapshot(snapshot.id).set(&mut clone);
        if let Err(error) = self.persist(clone, &none, &moved).await {
            self.undo_snapshot(claimed, None, &moved, &error).await;
            return Err(error);
        }
        snapshot.set_internal(lvol::SNAPSHOT_IN_PROGRESS, None);
        snapshot.flags.data_read_only |= Flags::READ_ONLY;
        if let Err(error) = self.persist(snapshot, &none, &none).await {
            self.undo_snapshot(claimed, Some(origin), &moved, &error).await;
            return Err(error);
        }
        Ok(claimed.keep())
    }

    /// Undoes an unfinished snapshot: gives the origin its clusters back, if they were moved, and erases the
    /// snapshot without freeing them.
    async fn undo_snapshot(
        &self,
        claimed: ClaimedId<'_, D>,
        origin: Option<Blob>,
        moved: &BTreeSet<u32>,
        error: &Error,
    ) {
        let none = BTreeSet::new();
        let restored = match origin {
            Some(origin) => self.persist(origin, &none, &none).await,
            None => Ok(()),
        };
        let erased = match restored {
            Ok(()) => self.erase_volume(claimed.id, moved).await.map(drop),
            failed => failed,
        };
        if erased.is_err() {
            claimed.keep();
            self.fail(format!("a snapshot could be neither finished nor undone: {error}"));
        }
    }

    /// Creates a clone of a snapshot.
    ///
    /// # Errors
    /// `EINVAL` when the volume is not read-only, `EEXIST`, `ENOSPC`, `EBUSY`, or the disk's error.
    pub async fn clone_snapshot(&self, id: BlobId, name: &str, uuid: &str) -> Result<BlobId> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "clone")?;
        let snapshot = self.blob(id)?;
        if !snapshot.flags.is_data_read_only() {
            return Err(Error::new(errno::EINVAL, "only a snapshot can be cloned"));
        }
        self.check_new_name(name)?;
        let claimed = self.claim_id()?;
        let mut clone = Blob::new(claimed.id);
        set_names(&mut clone, name, uuid);
        clone.map.resize(snapshot.map.len());
        Parent::Snapshot(id).set(&mut clone);
        self.persist(clone, &BTreeSet::new(), &BTreeSet::new()).await?;
        Ok(claimed.keep())
    }

    /// Deletes a snapshot that has one clone. The clone takes over the clusters at the indices where it has none.
    /// Returns the snapshot with the clusters that no volume owns now.
    pub(crate) async fn delete_under_clone(&self, mut snapshot: Blob, id: BlobId) -> Result<Blob> {
        let _busy = self.begin(id, "delete of its parent")?;
        let mut clone = self.blob(id)?;
        let none = BTreeSet::new();
        let unmarked = snapshot.clone();
        snapshot.set_internal_blob(lvol::SNAPSHOT_PENDING_REMOVAL, id);
        self.persist(snapshot.clone(), &none, &none).await?;

        let before = clone.clone();
        let moved = take_over(&mut clone, &snapshot);
        Parent::of(&snapshot).set(&mut clone);
        if let Err(error) = self.persist(clone.clone(), &moved.dirty, &none).await {
            if self.persist(unmarked, &none, &none).await.is_err() {
                self.fail(format!("the mark of a deletion could not be removed: {error}"));
            }
            return Err(error);
        }
        let mut left = match self.erase_volume(snapshot.id, &moved.pages).await {
            Ok(left) => left,
            Err(error) => {
                let restored = match self.persist(before, &moved.dirty, &moved.pages).await {
                    Ok(()) => self.persist(unmarked, &none, &none).await,
                    failed => failed,
                };
                if restored.is_err() {
                    self.fail(format!("a deletion could be neither finished nor undone: {error}"));
                }
                return Err(error);
            }
        };
        for index in 0..left.map.len() {
            if left.map.get(index) == clone.map.get(index) {
                left.map.set(index, None);
            }
        }
        Ok(left)
    }

    /// Sets another snapshot as the parent of a volume. Where the volume has no cluster of its own, it then reads
    /// the new parent's data.
    ///
    /// There must be no I/O of the volume in flight.
    ///
    /// # Errors
    /// `EINVAL` when the parent is not a snapshot, is the volume itself, or differs in size; `EEXIST` when it is
    /// already the parent; `EBUSY`; or the disk's error.
    pub async fn set_parent(&self, id: BlobId, parent: BlobId) -> Result<()> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "set parent")?;
        let invalid = |why: &str| Err(Error::new(errno::EINVAL, why));
        if id == parent {
            return invalid("a volume cannot be its own parent");
        }
        let _parent_busy = self.begin(parent, "set parent")?;
        let mut blob = self.blob(id)?;
        let snapshot = self.blob(parent)?;
        if blob.parent() == Some(parent) {
            return Err(Error::new(errno::EEXIST, "it is already the volume's parent"));
        }
        if !snapshot.flags.is_data_read_only() {
            return invalid("the parent must be a snapshot");
        }
        if self.has_ancestor(parent, id) {
            return invalid("the parent is a clone of the volume");
        }
        if snapshot.map.len() != blob.map.len() {
            return invalid("the parent and the volume differ in size");
        }
        Parent::Snapshot(parent).set(&mut blob);
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Sets a disk outside of the store as the parent of a volume.
    ///
    /// # Errors
    /// `EEXIST` when it is already the parent, `EBUSY`, or the disk's error.
    pub async fn set_external_parent(&self, id: BlobId, name: &[u8]) -> Result<()> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "set parent")?;
        let mut blob = self.blob(id)?;
        let parent = Parent::External(name.to_vec());
        if Parent::of(&blob) == parent {
            return Err(Error::new(errno::EEXIST, "it is already the volume's parent"));
        }
        parent.set(&mut blob);
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    fn has_ancestor(&self, id: BlobId, ancestor: BlobId) -> bool {
        let state = self.state.borrow();
        let mut next = Some(id);
        while let Some(id) = next {
            if id == ancestor {
                return true;
            }
            next = state.volumes.get(&id).and_then(|volume| volume.blob.parent());
        }
        false
    }
}

fn extents(blob: &Blob) -> BTreeSet<u32> {
    blob.extent_pages.iter().copied().filter(|page| *page != 0).collect()
}

struct Moved {
    /// Extent pages of the snapshot that now belong to the clone.
    pages: BTreeSet<u32>,
    /// Extent pages of the clone that change.
    dirty: BTreeSet<u32>,
}

/// Adds the snapshot's clusters to the clone, where the clone has none.
fn take_over(clone: &mut Blob, snapshot: &Blob) -> Moved {
    let mut moved = Moved { pages: BTreeSet::new(), dirty: BTreeSet::new() };
    for slot in 0..clone.map.num_pages().min(snapshot.map.num_pages()) {
        let was_empty = clone.map.page_is_empty(slot);
        let first = slot * CLUSTERS_PER_PAGE;
        let mut changed = false;
        for index in first..first.saturating_add(CLUSTERS_PER_PAGE).min(clone.map.len()) {
            if let (None, Some(cluster)) = (clone.map.get(index), snapshot.map.get(index)) {
                clone.map.set(index, Some(cluster));
                changed = true;
            }
        }
        if !changed {
            continue;
        }
        let place = snapshot.extent_pages.get(slot as usize).copied().unwrap_or(0);
        let is_whole = clone.map.page(slot) == snapshot.map.page(slot);
        match clone.extent_pages.get_mut(slot as usize) {
            Some(own) if *own == 0 && was_empty && is_whole && place != 0 => {
                *own = place;
                moved.pages.insert(place);
            }
            _ => _ = moved.dirty.insert(slot),
        }
    }
    moved
}
