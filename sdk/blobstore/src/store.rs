//! The store: its state in memory, exclusive access to volumes, and information about it.

use crate::disk::Disk;
use crate::error::{Error, Result, errno};
use crate::lock::Lock;
use drivebay_spec_blobstore::lvol::Names;
use drivebay_spec_blobstore::{Bits, Blob, BlobId, Fault, Note, SuperBlock};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// A store on a disk. It belongs to one thread.
#[derive(Debug)]
pub struct Store<D> {
    pub(crate) disk: D,
    pub(crate) state: RefCell<State>,
    /// A task holds it while it changes metadata, so that there is one writer.
    pub(crate) writer: Lock,
}

#[derive(Debug)]
pub(crate) struct State {
    /// The super block as on disk.
    pub(crate) block: SuperBlock,
    pub(crate) volumes: BTreeMap<BlobId, Volume>,
    pub(crate) used_pages: Bits,
    /// Includes clusters that no volume owns any more, until they are recycled.
    pub(crate) used_clusters: Bits,
    pub(crate) unused_clusters: BTreeSet<u32>,
    /// Volumes in use by an operation, with the operation's name.
    pub(crate) busy: BTreeMap<BlobId, &'static str>,
    /// Why the store accepts no more changes; `None` if it accepts changes.
    pub(crate) failed: Option<String>,
    pub(crate) notes: Vec<Note>,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) blob: Blob,
    /// The chain of metadata pages, in order.
    pub(crate) pages: Vec<u32>,
    pub(crate) faults: Vec<Fault>,
}

/// Describes a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its id in the store.
    pub id: BlobId,
    /// Its name.
    pub name: String,
    /// Its UUID as text, if it has one.
    pub uuid: Option<String>,
    /// Its size in clusters.
    pub num_clusters: u32,
    /// Number of clusters that the volume owns.
    pub num_allocated_clusters: u32,
    /// Whether a write allocates clusters.
    pub is_thin: bool,
    /// Whether its data must not be written.
    pub is_read_only: bool,
    /// Its parent in the store.
    pub parent: Option<BlobId>,
    /// The name of its parent outside of the store.
    pub external_parent: Option<Vec<u8>>,
    /// The volumes whose parent it is.
    pub clones: Vec<BlobId>,
    /// Why it is not served; empty if it is.
    pub faults: Vec<Fault>,
}

/// Describes a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its name.
    pub name: String,
    /// Its UUID as text.
    pub uuid: String,
    /// Number of clusters for data.
    pub total_data_clusters: u32,
    /// Number of free clusters.
    pub free_clusters: u32,
    /// Block size of its volumes in bytes.
    pub block_size: u32,
    /// Cluster size, the unit of allocation, in bytes.
    pub cluster_size: u32,
    /// Maximum size that the store can grow to, in bytes.
    pub max_growable_size: u64,
}

impl<D: Disk> Store<D> {
    /// The disk under the store.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Returns the disk and drops the store.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// The super block as it is on disk.
    #[must_use]
    pub fn super_block(&self) -> SuperBlock {
        self.state.borrow().block.clone()
    }

    /// How interrupted operations were finished when the store was loaded.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.state.borrow().notes.clone()
    }

    /// Describes the store; `None` when no blob has its name.
    #[must_use]
    pub fn info(&self) -> Option<StoreInfo> {
        let state = self.state.borrow();
        let names = Names::of(&state.volumes.get(&state.block.super_blob?)?.blob)?;
        let block = &state.block;
        Some(StoreInfo {
            name: names.name,
            uuid: names.uuid?,
            total_data_clusters: block.total_clusters() - block.md_clusters(),
            free_clusters: block.total_clusters() - state.used_clusters.count(),
            block_size: block.io_unit_size,
            cluster_size: block.cluster_size,
            max_growable_size: block.clusters_max() * u64::from(block.cluster_size),
        })
    }

    /// Describes all volumes, ordered by id, including quarantined ones.
    #[must_use]
    pub fn volumes(&self) -> Vec<Info> {
        let state = self.state.borrow();
        let super_blob = state.block.super_blob;
        let mut clones: BTreeMap<BlobId, Vec<BlobId>> = BTreeMap::new();
        for (id, volume) in &state.volumes {
            if let Some(parent) = volume.blob.parent() {
                clones.entry(parent).or_default().push(*id);
            }
        }
        let ids = state.volumes.keys().filter(|id| Some(**id) != super_blob);
        ids.filter_map(|id| state.info_with(*id, clones.remove(id).unwrap_or_default())).collect()
    }

    /// Describes one volume.
    ///
    /// # Errors
    /// `ENOENT` when there is no such volume.
    pub fn volume(&self, id: BlobId) -> Result<Info> {
        self.state.borrow().info(id).ok_or_else(|| no_volume(id))
    }

    /// The name of the parent outside of the store, of a volume or of one of its ancestors.
    #[must_use]
    pub fn external_ancestor(&self, id: BlobId) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let mut next = id;
        // The number of steps is limited, because damaged volumes may be their own ancestors.
        for _ in 0..state.volumes.len() {
            let blob = &state.volumes.get(&next)?.blob;
            if blob.is_external_clone() {
                let name = blob.internal_xattr(drivebay_spec_blobstore::lvol::EXTERNAL_SNAPSHOT);
                return name.map(<[u8]>::to_vec);
            }
            next = blob.parent()?;
        }
        None
    }

    /// A volume and all volumes that read through it, parents before their clones.
    #[must_use]
    pub fn family(&self, id: BlobId) -> Vec<BlobId> {
        let state = self.state.borrow();
        let mut family = vec![id];
        let mut next = 0;
        while let Some(parent) = family.get(next) {
            // Skip volumes that are already in the list, because damaged volumes may form a cycle.
            let clones = state.clones(*parent);
            let new = clones.into_iter().filter(|clone| !family.contains(clone));
            let new = Vec::from_iter(new);
            family.extend(new);
            next += 1;
        }
        family
    }

    /// A copy of a volume's metadata.
    pub(crate) fn blob(&self, id: BlobId) -> Result<Blob> {
        let state = self.state.borrow();
        let volume = state.volumes.get(&id).ok_or_else(|| no_volume(id))?;
        match volume.faults.first() {
            Some(fault) => Err(Error::new(errno::EIO, format!("blob {id} is not served: {fault}"))),
            None => Ok(volume.blob.clone()),
        }
    }

    /// Reserves a volume for one operation, until the guard is dropped. A reader of the whole volume, such as a copy,
    /// also uses this to keep the volume unchanged.
    ///
    /// # Errors
    /// `EBUSY`, naming the operation that uses the volume.
    pub fn begin(&self, id: BlobId, operation: &'static str) -> Result<Busy<'_, D>> {
        let mut state = self.state.borrow_mut();
        if let Some(holder) = state.busy.get(&id) {
            let name = state.info(id).map_or_else(|| id.to_string(), |info| info.name);
            let message = format!("{operation} of {name}: it is busy with {holder}");
            return Err(Error::new(errno::EBUSY, message));
        }
        state.busy.insert(id, operation);
        Ok(Busy { store: self, id })
    }

    /// Makes the store refuse further changes, because memory and disk may differ.
    pub(crate) fn fail(&self, why: String) {
        self.state.borrow_mut().failed.get_or_insert(why);
    }

    pub(crate) fn is_busy(&self, id: BlobId) -> bool {
        self.state.borrow().busy.contains_key(&id)
    }
}

/// A volume that is reserved for an operation.
#[derive(Debug)]
#[must_use = "the operation ends when this is dropped"]
pub struct Busy<'a, D> {
    store: &'a Store<D>,
    id: BlobId,
}

impl<D> Drop for Busy<'_, D> {
    fn drop(&mut self) {
        self.store.state.borrow_mut().busy.remove(&self.id);
    }
}

pub(crate) fn no_volume(id: BlobId) -> Error {
    Error::new(errno::ENOENT, format!("there is no blob {id}"))
}

impl State {
    pub(crate) fn info(&self, id: BlobId) -> Option<Info> {
        self.info_with(id, self.clones(id))
    }

    fn info_with(&self, id: BlobId, clones: Vec<BlobId>) -> Option<Info> {
        use drivebay_spec_blobstore::lvol;
        let Volume { blob, faults, .. } = self.volumes.get(&id)?;
        let names = Names::of(blob);
        let external =
            blob.is_external_clone().then(|| blob.internal_xattr(lvol::EXTERNAL_SNAPSHOT));
        Some(Info {
            id,
            name: names.as_ref().map_or_else(|| format!("{id}"), |names| names.name.clone()),
            uuid: names.and_then(|names| names.uuid),
            num_clusters: blob.map.len(),
            num_allocated_clusters: blob.map.allocated(),
            is_thin: blob.is_thin(),
            is_read_only: blob.flags.is_data_read_only(),
            parent: blob.parent(),
            external_parent: external.flatten().map(<[u8]>::to_vec),
            clones,
            faults: faults.clone(),
        })
    }

    pub(crate) fn clones(&self, id: BlobId) -> Vec<BlobId> {
        let clones = self.volumes.iter().filter(|(_, volume)| volume.blob.parent() == Some(id));
        clones.map(|(id, _)| *id).collect()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<BlobId> {
        let super_blob = self.block.super_blob;
        let mut named = self.volumes.iter().filter(|(id, _)| Some(**id) != super_blob);
        named.find(|(_, v)| Names::of(&v.blob).is_some_and(|n| n.name == name)).map(|(id, _)| *id)
    }
}
