//! The contents of a store, as its users see them.

use crate::disk::EXTERNAL_BYTES;
use crate::{SimDisk, run};
use drivebay_blobstore::{Disk, Place, Severity, Store};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDump {
    /// Hash of the data of each cluster, as a read returns it.
    pub clusters: Vec<u64>,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Values of the xattrs that the tests set.
    pub xattrs: Vec<Option<Vec<u8>>>,
}

/// Name and content of each volume, by UUID.
pub type Dump = BTreeMap<String, (String, VolumeDump)>;

fn hash(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

/// Reads everything.
#[must_use]
pub fn dump(store: &Store<SimDisk>) -> Dump {
    let size = store.super_block().cluster_size as usize;
    let zero = hash(&vec![0; size]);
    let volumes = store.volumes().into_iter().map(|info| {
        assert_eq!(info.faults, [], "{} has faults", info.name);
        let clusters = (0..info.num_clusters).map(|index| match store.place(info.id, index) {
            Place::Zero => zero,
            Place::Own(cluster) | Place::Inherited(cluster) => {
                hash(&run(store.disk().read(store.cluster_offset(cluster), size)).unwrap())
            }
            Place::External(_) if index as usize * size >= EXTERNAL_BYTES => zero,
            Place::External(_) => {
                let offset = u64::from(index) * size as u64;
                hash(&run(store.disk().read_external(b"", offset, size)).unwrap())
            }
        });
        let volume = VolumeDump {
            clusters: clusters.collect(),
            read_only: info.is_read_only,
            xattrs: ["a", "b"].map(|name| store.xattr(info.id, name).unwrap()).to_vec(),
        };
        (info.uuid.unwrap(), (info.name, volume))
    });
    volumes.collect()
}

/// Opens a store's image again, and expects that `check` finds no damage and that volumes own all
/// clusters in use.
pub fn check(image: Vec<u8>) {
    let disk = SimDisk::new(image);
    let report = run(drivebay_blobstore::check(&disk)).unwrap();
    let wrong: Vec<_> =
        report.findings.iter().filter(|one| one.severity != Severity::Note).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (block, model) = run(Store::read(&disk)).unwrap();
    let owned: u32 = model.volumes.values().map(|volume| volume.blob.map.allocated()).sum();
    let data = model.used_clusters.count() - block.md_clusters();
    assert_eq!(owned, data, "clusters are in use that no volume owns");
}
