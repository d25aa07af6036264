//! Creating, renaming and deleting volumes.

use crate::clusters::Unused;
use crate::disk::Disk;
use crate::error::{Error, Result, errno};
use crate::load::{ClearMethod, check_name, clear_flags, set_names};
use crate::store::Store;
use drivebay_spec_blobstore::{Blob, BlobId, CLUSTERS_MAX, Flags, lvol};
use std::collections::BTreeSet;

/// Options of a new volume.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name, unique in the store.
    pub name: String,
    /// Its UUID as text.
    pub uuid: String,
    /// Its size in clusters.
    pub num_clusters: u64,
    /// Whether a write allocates clusters.
    pub thin: bool,
    /// How to clear its clusters when they are freed; `None` = unmap them.
    pub clear_method: Option<ClearMethod>,
    /// Name of a disk outside of the store that becomes its parent; this makes the volume thin.
    pub external_parent: Option<Vec<u8>>,
}

impl<D: Disk> Store<D> {
    /// Creates a volume. Fills a thick volume with zeros before the volume exists.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` or `ENOSPC`, or the disk's error.
    pub async fn create_volume(&self, new: &NewVolume) -> Result<BlobId> {
        let _writer = self.writer.lock().await;
        self.check_new_name(&new.name)?;
        let size = size_in_clusters(new.num_clusters)?;
        let claimed = self.claim_id()?;
        let mut blob = Blob::new(claimed.id);
        set_names(&mut blob, &new.name, &new.uuid);
        blob.flags.md_read_only = new.clear_method.map_or(0, clear_flags);
        blob.map.resize(size);
        if let Some(parent) = &new.external_parent {
            blob.flags.invalid |= Flags::EXTERNAL_SNAPSHOT | Flags::THIN;
            blob.set_internal(lvol::EXTERNAL_SNAPSHOT, Some(parent.clone()));
        } else if new.thin {
            blob.flags.invalid |= Flags::THIN;
        }
        let mut clusters = self.claim_clusters(if blob.is_thin() { 0 } else { size })?;
        for (index, cluster) in (0..).zip(clusters.list.clone()) {
            blob.map.set(index, Some(cluster));
        }
        self.zero_clusters(&clusters.list).await?;
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await?;
        clusters.list.clear();
        Ok(claimed.keep())
    }

    /// Renames a volume.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` or `EBUSY`, or the disk's error.
    pub async fn rename_volume(&self, id: BlobId, name: &str) -> Result<()> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "rename")?;
        let mut blob = self.blob(id)?;
        if lvol::Names::of(&blob).is_some_and(|names| names.name == name) {
            return Ok(());
        }
        self.check_new_name(name)?;
        blob.set_xattr(lvol::NAME, Some([name.as_bytes(), b"\0"].concat()));
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Makes a volume read-only permanently.
    ///
    /// # Errors
    /// `EBUSY`, or the disk's error.
    pub async fn set_read_only(&self, id: BlobId) -> Result<()> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "set read-only")?;
        let mut blob = self.blob(id)?;
        blob.flags.data_read_only |= Flags::READ_ONLY;
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Sets or removes a named value of a volume. `name` and `uuid` belong to the store.
    ///
    /// # Errors
    /// `EPERM` for the names `name` and `uuid`, `EINVAL` for a value larger than a metadata page, or the disk's error.
    pub async fn set_xattr(&self, id: BlobId, name: &str, value: Option<Vec<u8>>) -> Result<()> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "set xattr")?;
        let mut blob = self.blob(id)?;
        if blob.flags.is_md_read_only() || [lvol::NAME, lvol::UUID].contains(&name.as_bytes()) {
            return Err(Error::new(errno::EPERM, format!("xattr {name} cannot be changed")));
        }
        blob.set_xattr(name.as_bytes(), value);
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }

    /// Returns a named value of a volume.
    ///
    /// # Errors
    /// `ENOENT` when there is no such volume.
    pub fn xattr(&self, id: BlobId, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.blob(id)?.xattr(name.as_bytes()).map(<[u8]>::to_vec))
    }

    /// Deletes a volume. If a snapshot has one clone, the clone takes over its clusters. Returns the clusters that no
    /// volume owns any more.
    ///
    /// There must be no I/O of the volume in flight. I/O of its clone may continue.
    ///
    /// # Errors
    /// `EPERM` for a snapshot with several clones, `EBUSY`, or the disk's error.
    pub async fn delete_volume(&self, id: BlobId) -> Result<Unused> {
        let _writer = self.writer.lock().await;
        let _busy = self.begin(id, "delete")?;
        let blob = self.blob(id)?;
        let clones = self.state.borrow().clones(id);
        let blob = match clones.as_slice() {
            [] => self.erase_volume(id, &BTreeSet::new()).await?,
            [clone] => self.delete_under_clone(blob, *clone).await?,
            several => {
                let message =
                    format!("the snapshot has {} clones; at most 1 is allowed", several.len());
                return Err(Error::new(errno::EPERM, message));
            }
        };
        let clusters = blob.map.iter().map(|(_, cluster)| cluster).collect();
        Ok(self.unused(&blob, clusters))
    }

    pub(crate) fn check_new_name(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.state.borrow().by_name(name).is_some() {
            return Err(Error::new(errno::EEXIST, format!("there is a volume named {name}")));
        }
        Ok(())
    }
}

pub(crate) fn size_in_clusters(clusters: u64) -> Result<u32> {
    u32::try_from(clusters).ok().filter(|size| *size <= CLUSTERS_MAX).ok_or_else(|| {
        let message = format!("{clusters} clusters are not allowed; allowed: up to {CLUSTERS_MAX}");
        Error::new(errno::EINVAL, message)
    })
}
