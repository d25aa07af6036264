//! Builds the volumes, their faults, and the masks from all metadata pages.
//!
//! The masks on disk are valid only after a clean close, so they are rebuilt from the pages every time. A
//! volume with a fault keeps everything that it is known to own, so that nothing overwrites it.

use crate::blob::{Blob, BlobError};
use crate::descriptor::{Descriptor, Flags};
use crate::lvol;
use crate::mask::Bits;
use crate::page::{BlobId, Page, PageError, is_zero};
use crate::super_block::SuperBlock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A fault of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One of its metadata pages cannot be used.
    Page {
        /// Number of the page.
        page: u32,
        /// Why.
        why: &'static str,
    },
    /// The pages do not form a valid blob.
    Blob(BlobError),
    /// It refers to a cluster that no volume can have.
    ClusterRange {
        /// Index in the volume.
        index: u32,
        /// The cluster.
        cluster: u32,
    },
    /// Another volume uses the same cluster, or this volume uses it twice.
    ClusterShared {
        /// The cluster.
        cluster: u32,
        /// The other volume.
        other: BlobId,
    },
    /// Another volume uses the same metadata page.
    PageShared {
        /// The page.
        page: u32,
        /// The other volume.
        other: BlobId,
    },
    /// Its parent, or the volume in the record of an interrupted operation, does not exist.
    Missing(BlobId),
    /// Its parent has a fault.
    Parent(BlobId),
    /// It is its own ancestor.
    Cycle,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page { page, why } => write!(f, "metadata page {page} {why}"),
            Self::Blob(error) => error.fmt(f),
            Self::ClusterRange { index, cluster } => {
                write!(f, "its cluster {index} is cluster {cluster} of the disk, out of range")
            }
            Self::ClusterShared { cluster, other } => {
                write!(f, "cluster {cluster} of the disk belongs to blob {other} too")
            }
            Self::PageShared { page, other } => {
                write!(f, "metadata page {page} belongs to blob {other} too")
            }
            Self::Missing(blob) => write!(f, "it refers to blob {blob}, which does not exist"),
            Self::Parent(blob) => write!(f, "its parent, blob {blob}, has a fault"),
            Self::Cycle => f.write_str("it is its own ancestor"),
        }
    }
}

/// How an interrupted operation is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The snapshot stays, because its clone needs it.
    SnapshotKept(BlobId),
    /// The snapshot is dropped, because the other volume has all of its clusters.
    SnapshotDropped(BlobId),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnapshotKept(id) => {
                write!(
                    f,
                    "blob {id}: a snapshot or deletion was interrupted, and the snapshot is kept"
                )
            }
            Self::SnapshotDropped(id) => {
                write!(
                    f,
                    "blob {id}: a snapshot or deletion was interrupted, and the snapshot is removed"
                )
            }
        }
    }
}

/// A blob, the places of its metadata, and its faults.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its metadata. If there is a fault, as much of it as could be read.
    pub blob: Blob,
    /// Its chain of pages, in order.
    pub pages: Vec<u32>,
    /// Its faults. If there are none, it may be used.
    pub faults: Vec<Fault>,
}

/// A metadata page with contents that belongs to no volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// A blob wrote it.
    Of(BlobId),
    /// It cannot be read.
    Unreadable(&'static str),
}

/// The metadata of a whole store.
#[derive(Clone, Debug)]
pub struct Model {
    /// All blobs, including the super blob.
    pub volumes: BTreeMap<BlobId, Volume>,
    /// Metadata pages in use.
    pub used_pages: Bits,
    /// Clusters in use, including those of the metadata.
    pub used_clusters: Bits,
    /// How interrupted operations are finished.
    pub notes: Vec<Note>,
    /// Blobs whose metadata must be written again to finish an interrupted operation.
    pub changed: BTreeSet<BlobId>,
    /// Chains that must be erased to finish an interrupted operation; the first page comes first.
    pub dropped: BTreeMap<BlobId, Vec<u32>>,
    /// Pages with contents that belong to no volume, among those that were read.
    pub strays: BTreeMap<u32, Stray>,
}

impl Model {
    /// Blob ids in use.
    #[must_use]
    pub fn used_blobs(&self) -> Bits {
        let mut bits = Bits::new(self.used_pages.len());
        self.volumes.keys().for_each(|id| {
            bits.set(id.page());
        });
        bits
    }
}

/// Collects every metadata page once, in any order.
#[derive(Debug)]
pub struct Replay {
    md_len: u32,
    md_clusters: u32,
    total_clusters: u32,
    pages: BTreeMap<u32, Page>,
    refused: BTreeMap<u32, &'static str>,
}

impl Replay {
    /// Starts without pages.
    #[must_use]
    pub fn new(block: &SuperBlock) -> Self {
        Self {
            md_len: block.metadata.len,
            md_clusters: block.md_clusters(),
            total_clusters: block.total_clusters(),
            pages: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Adds metadata page `index`.
    pub fn page(&mut self, index: u32, bytes: &[u8]) {
        match Page::parse(bytes) {
            Ok(page) => {
                self.pages.insert(index, page);
            }
            Err(PageError::Crc) if is_zero(bytes) => {}
            Err(PageError::Crc) => {
                self.refused.insert(index, "has a wrong checksum");
            }
            Err(PageError::Descriptor { .. }) => {
                self.refused.insert(index, "has a malformed descriptor");
            }
        }
    }

    /// Evaluates the pages.
    #[must_use]
    pub fn finish(self) -> Model {
        let mut volumes: BTreeMap<_, _> = self
            .pages
            .iter()
            .filter(|(index, page)| page.sequence == 0 && page.id == BlobId::of_page(**index))
            .map(|(_, first)| (first.id, self.volume(first)))
            .collect();
        let mut model = Model {
            used_pages: Bits::new(self.md_len),
            used_clusters: Bits::new(self.total_clusters),
            notes: Vec::new(),
            changed: BTreeSet::new(),
            dropped: BTreeMap::new(),
            strays: BTreeMap::new(),
            volumes: BTreeMap::new(),
        };
        end_interrupted(&mut volumes, &mut model);
        model.volumes = volumes;
        self.claim_pages(&mut model);
        self.claim_clusters(&mut model);
        judge_parents(&mut model.volumes);
        model
    }

    fn volume(&self, first: &Page) -> Volume {
        let (chain, pages, fault) = self.chain(first);
        let (mut blob, mut faults) = match Blob::from_chain(first.id, chain.into_iter()) {
            Ok(blob) => (blob, Vec::from_iter(fault)),
            Err(error) => (Blob::new(first.id), vec![fault.unwrap_or(Fault::Blob(error))]),
        };
        if faults.is_empty() {
            self.add_extents(&mut blob, &mut faults);
        }
        for (index, cluster) in blob.map.iter() {
            if !(self.md_clusters..self.total_clusters).contains(&cluster) {
                faults.push(Fault::ClusterRange { index, cluster });
                break;
            }
        }
        Volume { blob, pages, faults }
    }

    /// Returns the chain of pages after `first`, as far as it is valid, and the fault that ended it early.
    fn chain<'a>(&'a self, first: &'a Page) -> (Vec<&'a Page>, Vec<u32>, Option<Fault>) {
        let mut chain = vec![first];
        let mut places = vec![first.id.page()];
        let mut next = first.next;
        // Every page has one sequence number, so a cycle ends when it visits a page again.
        while let Some(page) = next {
            let fault = |why| Some(Fault::Page { page, why });
            let sequence = u32::try_from(chain.len()).unwrap_or(u32::MAX);
            let Some(found) = self.pages.get(&page) else {
                return (chain, places, fault(self.why_not(page)));
            };
            if found.id != first.id {
                return (chain, places, fault("belongs to another blob"));
            }
            if found.sequence != sequence {
                return (chain, places, fault("has another place in the chain"));
            }
            chain.push(found);
            places.push(page);
            next = found.next;
        }
        (chain, places, None)
    }

    fn why_not(&self, page: u32) -> &'static str {
        if page >= self.md_len {
            return "is past the end of the metadata";
        }
        self.refused.get(&page).copied().unwrap_or("is empty")
    }

    fn add_extents(&self, blob: &mut Blob, faults: &mut Vec<Fault>) {
        for (slot, place) in (0_u32..).zip(blob.extent_pages.clone()) {
            if place == 0 {
                continue;
            }
            match self.pages.get(&place) {
                Some(page) => {
                    if let Err(error) = blob.add_extent_page(slot, page) {
                        faults.push(Fault::Blob(error));
                    }
                }
                None => faults.push(Fault::Page { page: place, why: self.why_not(place) }),
            }
        }
        blob.extent_pages.truncate(blob.map.num_pages() as usize);
    }

    fn claim_pages(&self, model: &mut Model) {
        let mut owners: BTreeMap<u32, BlobId> = BTreeMap::new();
        let mut shared = Vec::new();
        for (id, volume) in &model.volumes {
            let extents = volume.blob.extent_pages.iter().filter(|page| **page != 0);
            for page in volume.pages.iter().chain(extents) {
                match owners.insert(*page, *id) {
                    Some(other) => shared.push((*page, other, *id)),
                    None => _ = model.used_pages.set(*page),
                }
            }
        }
        let is_stray = |place: &u32| !owners.contains_key(place);
        let pages = self.pages.iter().filter(|(place, _)| is_stray(place));
        model.strays.extend(pages.map(|(place, page)| (*place, Stray::Of(page.id))));
        let refused = self.refused.iter().filter(|(place, _)| is_stray(place));
        model.strays.extend(refused.map(|(place, why)| (*place, Stray::Unreadable(why))));
        for (page, one, other) in shared {
            fault(&mut model.volumes, one, Fault::PageShared { page, other });
            fault(&mut model.volumes, other, Fault::PageShared { page, other: one });
        }
        // Keep pages that a broken volume wrote and no other volume uses, so that they can be repaired.
        for (place, page) in &self.pages {
            let broken =
                model.volumes.get(&page.id).is_some_and(|volume| !volume.faults.is_empty());
            if broken && !owners.contains_key(place) {
                model.used_pages.set(*place);
                for descriptor in &page.descriptors {
                    if let Descriptor::ExtentPage { clusters, .. } = descriptor {
                        clusters.iter().filter(|cluster| **cluster != 0).for_each(|cluster| {
                            model.used_clusters.set(*cluster);
                        });
                    }
                }
            }
        }
    }

    fn claim_clusters(&self, model: &mut Model) {
        let mut claimed = Bits::new(self.total_clusters);
        let mut shared: BTreeMap<u32, Option<BlobId>> = BTreeMap::new();
        for volume in model.volumes.values() {
            for (_, cluster) in volume.blob.map.iter() {
                if cluster < self.total_clusters && !claimed.set(cluster) {
                    shared.insert(cluster, None);
                }
            }
        }
        if !shared.is_empty() {
            name_owners(&mut model.volumes, shared);
        }
        for cluster in 0..self.md_clusters {
            claimed.set(cluster);
        }
        model.used_clusters.union(&claimed);
    }
}

fn fault(volumes: &mut BTreeMap<BlobId, Volume>, id: BlobId, fault: Fault) {
    if let Some(volume) = volumes.get_mut(&id) {
        volume.faults.push(fault);
    }
}

/// Adds a fault to each owner of a shared cluster. The fault names another owner.
fn name_owners(volumes: &mut BTreeMap<BlobId, Volume>, mut shared: BTreeMap<u32, Option<BlobId>>) {
    let mut faults = Vec::new();
    for (id, volume) in &*volumes {
        for (_, cluster) in volume.blob.map.iter() {
            let Some(owner) = shared.get_mut(&cluster) else { continue };
            if let Some(other) = owner.replace(*id) {
                faults.push((*id, Fault::ClusterShared { cluster, other }));
                faults.push((other, Fault::ClusterShared { cluster, other: *id }));
            }
        }
    }
    for (id, why) in faults {
        fault(volumes, id, why);
    }
}

/// Finishes an interrupted snapshot or an interrupted deletion of one, in the same way as the format's first
/// implementation. If the other volume has the snapshot as its parent, the snapshot stays. Otherwise the
/// snapshot is dropped without freeing its clusters.
fn end_interrupted(volumes: &mut BTreeMap<BlobId, Volume>, model: &mut Model) {
    let marked: Vec<_> = volumes
        .iter()
        .filter(|(_, volume)| volume.faults.is_empty())
        .filter_map(|(id, volume)| {
            let marker = |name| volume.blob.internal_blob(name);
            let other = marker(lvol::SNAPSHOT_PENDING_REMOVAL)
                .or_else(|| marker(lvol::SNAPSHOT_IN_PROGRESS))?;
            Some((*id, other))
        })
        .collect();
    for (id, other) in marked {
        let Some(clone) = volumes.get(&other).filter(|clone| clone.faults.is_empty()) else {
            fault(volumes, id, Fault::Missing(other));
            continue;
        };
        if clone.blob.parent() == Some(id) {
            keep(volumes, id, other, model);
            model.notes.push(Note::SnapshotKept(id));
        } else if let Some(snapshot) = volumes.remove(&id) {
            model.dropped.insert(id, snapshot.pages);
            model.notes.push(Note::SnapshotDropped(id));
        }
    }
}

/// Keeps the snapshot. The clone may have taken over some of the snapshot's clusters; removes these from the clone.
fn keep(volumes: &mut BTreeMap<BlobId, Volume>, id: BlobId, other: BlobId, model: &mut Model) {
    let Some(snapshot) = volumes.get_mut(&id) else { return };
    snapshot.blob.set_internal(lvol::SNAPSHOT_PENDING_REMOVAL, None);
    snapshot.blob.set_internal(lvol::SNAPSHOT_IN_PROGRESS, None);
    snapshot.blob.flags.data_read_only |= Flags::READ_ONLY;
    model.changed.insert(id);
    let map = snapshot.blob.map.clone();
    let Some(clone) = volumes.get_mut(&other) else { return };
    for (index, cluster) in map.iter() {
        if clone.blob.map.get(index) == Some(cluster) {
            clone.blob.map.set(index, None);
            model.changed.insert(other);
        }
    }
}

/// Marks volumes whose ancestors are missing or broken, and volumes that are their own ancestors.
fn judge_parents(volumes: &mut BTreeMap<BlobId, Volume>) {
    let mut faults = Vec::new();
    for (id, volume) in &*volumes {
        let mut seen = BTreeSet::from([*id]);
        let mut parent = volume.blob.parent();
        while let Some(next) = parent {
            let Some(ancestor) = volumes.get(&next) else {
                faults.push((*id, Fault::Missing(next)));
                break;
            };
            if !seen.insert(next) {
                faults.push((*id, Fault::Cycle));
                break;
            }
            if !ancestor.faults.is_empty() {
                faults.push((*id, Fault::Parent(next)));
                break;
            }
            parent = ancestor.blob.parent();
        }
    }
    for (id, why) in faults {
        fault(volumes, id, why);
    }
}

#[cfg(test)]
mod tests;
