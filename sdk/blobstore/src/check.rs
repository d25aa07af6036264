//! Checks a store on a disk without changing it. Makes those repairs that are certainly right.

use crate::disk::Disk;
use crate::error::Result;
use crate::load::read_region;
use crate::store::Store;
use drivebay_spec_blobstore::lvol::Names;
use drivebay_spec_blobstore::{
    Bits, Blob, BlobId, CLUSTERS_PER_PAGE, Fault, MaskKind, Model, Region, Stray, SuperBlock,
    Volume,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A volume cannot be served, or its data may be overwritten.
    Damage,
    /// Space is marked as used, but no volume owns it.
    Leak,
    /// Opening the store fixes it.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damage => "damage",
            Self::Leak => "leak",
            Self::Note => "note",
        })
    }
}

/// How to repair a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Repair {
    /// Opening and closing the store repairs it.
    Reopen,
    /// Finish a deletion: erase the volume's first page.
    Erase(BlobId),
    /// Remove a clone's entries for clusters that belong to its ancestor.
    Return(BlobId, Vec<u32>),
}

/// One finding of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// A text for people.
    pub what: String,
    /// Whether [`repair`] repairs it. It does so only if exactly one repair is right.
    pub can_be_repaired: bool,
    #[serde(skip)]
    repair: Option<Repair>,
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>, repair: Option<Repair>) -> Self {
        Self { severity, what: what.into(), can_be_repaired: repair.is_some(), repair }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the store, if it has one.
    pub name: Option<String>,
    /// Its UUID as text, if it has one.
    pub uuid: Option<String>,
    /// Whether the store was closed properly. If not, its masks are not valid.
    pub is_clean: bool,
    /// Number of volumes.
    pub num_volumes: usize,
    /// Length of a cluster, the unit of allocation, in bytes.
    pub cluster_size: u32,
    /// Number of clusters for data.
    pub total_data_clusters: u32,
    /// Number of clusters that volumes own.
    pub used_data_clusters: u32,
    /// The findings, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether there is no damage and no leak.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("without a name");
        let closed = if self.is_clean { "closed cleanly" } else { "not closed cleanly" };
        writeln!(
            f,
            "store {name}: {} volumes, {} of {} clusters used, {closed}",
            self.num_volumes, self.used_data_clusters, self.total_data_clusters
        )?;
        for Finding { severity, what, can_be_repaired, .. } in &self.findings {
            let repair = if *can_be_repaired { " [can be repaired]" } else { "" };
            writeln!(f, "{severity}: {what}{repair}")?;
        }
        writeln!(f, "{}", if self.is_sound() { "sound" } else { "not sound" })
    }
}

/// Reads a whole store and reports what is wrong. Writes nothing.
///
/// # Errors
/// `EILSEQ` when the disk has no store or its super block is damaged, or the disk's error.
pub async fn check<D: Disk>(disk: &D) -> Result<Report> {
    let (block, model) = Store::read_all(disk).await?;
    let mut findings = Vec::new();
    of_volumes(&model, &mut findings);
    of_names(&block, &model, &mut findings);
    of_strays(&model, &mut findings);
    if block.clean {
        of_masks(disk, &block, &model, &mut findings).await?;
    }
    let names = block.super_blob.and_then(|id| Names::of(&model.volumes.get(&id)?.blob));
    let owned = model.used_clusters.count().saturating_sub(block.md_clusters());
    Ok(Report {
        name: names.as_ref().map(|names| names.name.clone()),
        uuid: names.and_then(|names| names.uuid),
        is_clean: block.clean,
        num_volumes: model.volumes.len().saturating_sub(usize::from(block.super_blob.is_some())),
        cluster_size: block.cluster_size,
        total_data_clusters: block.total_clusters() - block.md_clusters(),
        used_data_clusters: owned,
        findings,
    })
}

/// Makes those repairs that are certainly right, and closes the store properly. No one else may have the disk open for
/// writing.
///
/// # Errors
/// As [`check`], or the disk's error. After an error, some repairs may be done, and the store is not closed properly.
pub async fn repair<D: Disk>(disk: D) -> Result<D> {
    let findings = check(&disk).await?.findings;
    let (block, model) = Store::read_all(&disk).await?;
    // This makes the masks invalid, so loading the store rebuilds them. It also finishes interrupted operations.
    let open = SuperBlock { clean: false, ..block.clone() };
    write(&disk, 0, open.encode().to_vec()).await?;
    for repair in findings.into_iter().filter_map(|finding| finding.repair) {
        match repair {
            Repair::Reopen => {}
            Repair::Erase(id) => {
                let zeros = vec![0; block.md_page_size as usize];
                write(&disk, block.md_page_offset(id.page()), zeros).await?;
            }
            Repair::Return(id, places) => {
                if let Some(volume) = model.volumes.get(&id) {
                    return_clusters(&disk, &block, volume.blob.clone(), &places).await?;
                }
            }
        }
    }
    let store = Store::load(disk).await?;
    store.close().await?;
    Ok(store.into_disk())
}

async fn write<D: Disk>(disk: &D, offset: u64, bytes: Vec<u8>) -> Result<()> {
    disk.write(offset, bytes).await?;
    if disk.has_write_cache() {
        disk.flush().await?;
    }
    Ok(())
}

async fn return_clusters<D: Disk>(
    disk: &D,
    block: &SuperBlock,
    mut blob: Blob,
    places: &[u32],
) -> Result<()> {
    for place in places {
        blob.map.set(*place, None);
    }
    let slots: BTreeSet<u32> = places.iter().map(|place| place / CLUSTERS_PER_PAGE).collect();
    for slot in slots {
        let Some(page) = blob.extent_pages.get(slot as usize).filter(|page| **page != 0) else {
            continue;
        };
        let mut bytes = blob.extent_page(slot).encode().to_vec();
        bytes.resize(block.md_page_size as usize, 0);
        write(disk, block.md_page_offset(*page), bytes).await?;
    }
    Ok(())
}

fn name_of(id: BlobId, blob: &Blob) -> String {
    Names::of(blob)
        .map_or_else(|| format!("blob {id}"), |names| format!("{} (blob {id})", names.name))
}

/// Finds faults of volumes, and interrupted operations.
fn of_volumes(model: &Model, findings: &mut Vec<Finding>) {
    for note in &model.notes {
        findings.push(Finding::new(Severity::Note, note.to_string(), Some(Repair::Reopen)));
    }
    let returned: BTreeMap<BlobId, Repair> = model
        .volumes
        .iter()
        .filter_map(|(id, volume)| Some((*id, returned_to_ancestor(model, *id, volume)?)))
        .collect();
    for (id, volume) in &model.volumes {
        let name = name_of(*id, &volume.blob);
        let mut damage = |what: String, repair| {
            let what = format!("volume {name}: {what}");
            findings.push(Finding::new(Severity::Damage, what, repair));
        };
        for fault in &volume.faults {
            let repair = match fault {
                Fault::ClusterShared { .. } => continue,
                Fault::Page { why: "is empty", .. } if is_all_that_is_left(model, *id, volume) => {
                    Some(Repair::Erase(*id))
                }
                Fault::Parent(_) => returned.get(id).map(|_| Repair::Reopen),
                _ => None,
            };
            damage(fault.to_string(), repair);
        }
        for (other, clusters) in shared_clusters(volume) {
            let by_other = returned.get(&other).map(|_| Repair::Reopen);
            let what = match clusters.as_slice() {
                [cluster] => Fault::ClusterShared { cluster: *cluster, other }.to_string(),
                several => {
                    format!("clusters {} of the disk belong to blob {other} too", ranges(several))
                }
            };
            damage(what, returned.get(id).cloned().or(by_other));
        }
    }
}

/// The clusters of a volume that other volumes also use, in order.
fn shared_clusters(volume: &Volume) -> BTreeMap<BlobId, Vec<u32>> {
    let mut shared: BTreeMap<BlobId, BTreeSet<u32>> = BTreeMap::new();
    for fault in &volume.faults {
        if let Fault::ClusterShared { cluster, other } = fault {
            shared.entry(*other).or_default().insert(*cluster);
        }
    }
    shared.into_iter().map(|(other, clusters)| (other, Vec::from_iter(clusters))).collect()
}

/// Whether a deletion was interrupted when only the volume's first page was left.
fn is_all_that_is_left(model: &Model, id: BlobId, volume: &Volume) -> bool {
    let has_stray = model.strays.values().any(|stray| *stray == Stray::Of(id));
    volume.pages.len() == 1 && volume.blob.map.allocated() == 0 && !has_stray
}

/// Finds the repair of a clone whose entries refer to its ancestor's clusters at the same indices. The clone reads the
/// same data without these entries.
fn returned_to_ancestor(model: &Model, id: BlobId, volume: &Volume) -> Option<Repair> {
    let shared = shared_clusters(volume);
    if shared.is_empty() || !volume.blob.uses_table {
        return None;
    }
    let place_of: BTreeMap<u32, u32> =
        volume.blob.map.iter().map(|(place, cluster)| (cluster, place)).collect();
    let mut places = Vec::new();
    for (other, cluster) in shared.iter().flat_map(|(id, all)| all.iter().map(move |one| (id, one)))
    {
        let place = *place_of.get(cluster)?;
        if nearest_below(model, volume, place) != Some((*other, *cluster)) {
            return None;
        }
        places.push(place);
    }
    let is_all = volume
        .faults
        .iter()
        .all(|fault| matches!(fault, Fault::ClusterShared { .. } | Fault::Parent(_)));
    is_all.then_some(Repair::Return(id, places))
}

/// Finds the nearest ancestor with a cluster at this index. Returns the ancestor and the cluster.
fn nearest_below(model: &Model, volume: &Volume, place: u32) -> Option<(BlobId, u32)> {
    let mut seen = BTreeSet::new();
    let mut next = volume.blob.parent();
    while let Some(id) = next.filter(|id| seen.insert(*id)) {
        let ancestor = model.volumes.get(&id)?;
        if let Some(cluster) = ancestor.blob.map.get(place) {
            return Some((id, cluster));
        }
        next = ancestor.blob.parent();
    }
    None
}

/// Finds missing names, and names or UUIDs that two blobs share.
fn of_names(block: &SuperBlock, model: &Model, findings: &mut Vec<Finding>) {
    let damage = |what: String| Finding::new(Severity::Damage, what, None);
    let named = block.super_blob.and_then(|id| Names::of(&model.volumes.get(&id)?.blob));
    if named.is_none() {
        findings.push(damage("no blob has the name of the store".to_owned()));
    }
    let mut seen: BTreeMap<String, BlobId> = BTreeMap::new();
    for (id, volume) in model.volumes.iter().filter(|(id, _)| Some(**id) != block.super_blob) {
        let Some(names) = Names::of(&volume.blob) else {
            if volume.faults.is_empty() {
                findings.push(damage(format!("blob {id} has no name")));
            }
            continue;
        };
        for (kind, text) in [("name", Some(names.name)), ("UUID", names.uuid)] {
            let Some(text) = text else { continue };
            if let Some(other) = seen.insert(format!("{kind} {text}"), *id) {
                let what = format!("blobs {other} and {id} have the same {kind}: {text}");
                findings.push(damage(what));
            }
        }
    }
}

/// Finds pages with contents that belong to no volume.
fn of_strays(model: &Model, findings: &mut Vec<Finding>) {
    let mut leftovers = Vec::new();
    for (page, stray) in &model.strays {
        match stray {
            Stray::Of(_) => leftovers.push(*page),
            Stray::Unreadable(why) => findings.push(Finding::new(
                Severity::Damage,
                format!("metadata page {page} {why}, and no volume names it: a volume may be lost"),
                None,
            )),
        }
    }
    if !leftovers.is_empty() {
        findings.push(Finding::new(
            Severity::Note,
            format!("metadata pages {} are left over and free", ranges(&leftovers)),
            None,
        ));
    }
}

/// Compares the masks with what the volumes own.
async fn of_masks<D: Disk>(
    disk: &D,
    block: &SuperBlock,
    model: &Model,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let has_faults = model.volumes.values().any(|volume| !volume.faults.is_empty());
    let blobs = model.used_blobs();
    for (region, kind, bits, what) in [
        (block.used_pages, MaskKind::Pages, &model.used_pages, "metadata pages"),
        (block.used_clusters, MaskKind::Clusters, &model.used_clusters, "clusters"),
        (block.used_blobs, MaskKind::Blobs, &blobs, "blob ids"),
    ] {
        if region == (Region { start: 0, len: 0 }) {
            continue;
        }
        let bytes = read_region(disk, block, region).await?;
        let Ok(mask) = Bits::parse(&bytes, kind, bits.len()) else {
            findings.push(Finding::new(
                Severity::Damage,
                format!("the mask of used {what} cannot be read"),
                Some(Repair::Reopen),
            ));
            continue;
        };
        let owned_only: Vec<u32> = bits.iter().filter(|bit| !mask.get(*bit)).collect();
        let masked_only: Vec<u32> = mask.iter().filter(|bit| !bits.get(*bit)).collect();
        if !owned_only.is_empty() {
            findings.push(Finding::new(
                Severity::Damage,
                format!("{what} {} are in use and marked as free", ranges(&owned_only)),
                Some(Repair::Reopen),
            ));
        }
        // A damaged volume may own them, so report no leak.
        if !masked_only.is_empty() && !has_faults {
            findings.push(Finding::new(
                Severity::Leak,
                format!("{what} {} are marked as used, but nobody has them", ranges(&masked_only)),
                Some(Repair::Reopen),
            ));
        }
    }
    Ok(())
}

/// Formats sorted numbers as text: `3, 7-9`.
fn ranges(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let texts = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

impl<D: Disk> Store<D> {
    /// Checks an open store, as [`check`] does. Changes of the store wait meanwhile. It also works after a failed write,
    /// when the store accepts no more changes; a finding then gives the reason.
    ///
    /// # Errors
    /// As [`check`].
    pub async fn check(&self) -> Result<Report> {
        let _writer = self.writer.lock().await;
        let mut report = check(&self.disk).await?;
        if let Some(why) = &self.state.borrow().failed {
            let what = format!("the store takes no changes until it is loaded again: {why}");
            report.findings.push(Finding::new(Severity::Note, what, Some(Repair::Reopen)));
        }
        Ok(report)
    }
}
