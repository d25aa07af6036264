//! What `check` finds on damaged stores, and what `repair` does then.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

use drivebay_blobstore::spec::{Bits, Blob, BlobId, MaskKind, Model, SuperBlock, seal};
use drivebay_blobstore::{Disk, NewVolume, Report, Severity, Store, repair};
use drivebay_lvol_tests::{Dump, SimDisk, dump, new_store, run};

const PAGE: usize = 4096;

/// A closed store: a volume with a snapshot and clusters of its own, and another volume.
fn closed_store() -> Vec<u8> {
    let store = new_store();
    let new = |name: &str, number: u64| NewVolume {
        name: name.into(),
        uuid: format!("00000000-0000-4000-8000-{number:012x}"),
        num_clusters: 12,
        thin: true,
        clear_method: None,
        external_parent: None,
    };
    let volume = run(store.create_volume(&new("volume", 1))).unwrap();
    let other = run(store.create_volume(&new("other", 2))).unwrap();
    run(store.allocate(volume, &[0, 1, 2])).unwrap();
    run(store.allocate(other, &[0, 1])).unwrap();
    run(store.snapshot(volume, "snapshot", "00000000-0000-4000-8000-000000000003")).unwrap();
    run(store.allocate(volume, &[0, 5])).unwrap();
    run(store.set_xattr(other, "a", Some(vec![1; 3800]))).unwrap();
    run(store.set_xattr(other, "b", Some(vec![2; 3800]))).unwrap();
    run(store.close()).unwrap();
    store.disk().image()
}

fn look(image: &[u8]) -> Report {
    run(drivebay_blobstore::check(&SimDisk::new(image.to_vec()))).unwrap()
}

fn repaired(image: &[u8]) -> Vec<u8> {
    run(repair(SimDisk::new(image.to_vec()))).unwrap().image()
}

fn contents(image: &[u8]) -> Dump {
    dump(&run(Store::load(SimDisk::new(image.to_vec()))).unwrap())
}

fn parts(image: &[u8]) -> (SuperBlock, Model) {
    run(Store::read(&SimDisk::new(image.to_vec()))).unwrap()
}

fn id(image: &[u8], name: &str) -> BlobId {
    let store = run(Store::load(SimDisk::new(image.to_vec()))).unwrap();
    store.volumes().into_iter().find(|info| info.name == name).unwrap().id
}

fn blob(image: &[u8], name: &str) -> Blob {
    parts(image).1.volumes[&id(image, name)].blob.clone()
}

/// The bytes of a metadata page.
fn page(image: &mut [u8], number: u32) -> &mut [u8; PAGE] {
    let at = parts(image).0.md_page_offset(number) as usize;
    image[at..][..PAGE].first_chunk_mut().unwrap()
}

fn assert_finds(report: &Report, severity: Severity, is_certain: bool, text: &str) {
    let found = report.findings.iter().any(|finding| {
        finding.severity == severity
            && finding.can_be_repaired == is_certain
            && finding.what.contains(text)
    });
    assert!(found, "{text} is not among {:#?}", report.findings);
}

#[test]
fn a_closed_store_has_nothing_to_find() {
    let image = closed_store();
    let report = look(&image);
    assert_eq!(report.findings, []);
    assert_eq!((report.num_volumes, report.is_clean), (3, true));
    assert_eq!(report.used_data_clusters, 7);
    assert_eq!(contents(&repaired(&image)), contents(&image));
}

#[test]
fn clusters_that_nobody_has_are_leaked_and_found_again() {
    let mut image = closed_store();
    let (block, model) = parts(&image);
    let mut bits = model.used_clusters.clone();
    bits.set(block.total_clusters() - 1);
    write_mask(&mut image, &block, &bits);
    assert_finds(&look(&image), Severity::Leak, true, "nobody has them");
    assert!(look(&repaired(&image)).findings.is_empty());
}

#[test]
fn a_cluster_in_use_that_is_marked_as_free_is_damage_and_marked_again() {
    let mut image = closed_store();
    let (block, model) = parts(&image);
    let mut bits = model.used_clusters.clone();
    let (_, cluster) = blob(&image, "other").map.iter().next().unwrap();
    bits.clear(cluster);
    write_mask(&mut image, &block, &bits);
    assert_finds(&look(&image), Severity::Damage, true, "marked as free");
    let image_after = repaired(&image);
    assert!(look(&image_after).findings.is_empty());
    assert_eq!(contents(&image_after), contents(&image));
}

fn write_mask(image: &mut [u8], block: &SuperBlock, bits: &Bits) {
    let bytes = block.used_clusters.len as usize * PAGE;
    let at = block.page_offset(block.used_clusters.start.into()) as usize;
    image[at..][..bytes].copy_from_slice(&bits.encode(MaskKind::Clusters, bytes));
}

/// Makes `name` own `cluster` at `index`, on disk.
fn own(image: &mut [u8], name: &str, index: u32, cluster: u32) {
    let mut blob = blob(image, name);
    blob.map.set(index, Some(cluster));
    let bytes = blob.extent_page(0).encode();
    page(image, blob.extent_pages[0]).copy_from_slice(&bytes[..]);
}

#[test]
fn a_cluster_of_two_volumes_is_named_and_left_to_the_operator() {
    let mut image = closed_store();
    let (_, cluster) = blob(&image, "other").map.iter().next().unwrap();
    own(&mut image, "volume", 7, cluster);
    let report = look(&image);
    let text = format!("cluster {cluster} of the disk belongs to blob");
    assert_finds(&report, Severity::Damage, false, &text);
    let after = look(&repaired(&image));
    assert_finds(&after, Severity::Damage, false, &text);
    assert!(after.findings.iter().all(|finding| !finding.can_be_repaired));
}

#[test]
fn a_clone_that_names_its_snapshots_cluster_gives_it_back_and_reads_the_same() {
    let sound = closed_store();
    let mut image = sound.clone();
    let cluster = blob(&image, "snapshot").map.get(1).unwrap();
    own(&mut image, "volume", 1, cluster);
    assert_finds(&look(&image), Severity::Damage, true, "volume volume");
    let image = repaired(&image);
    assert!(look(&image).findings.is_empty());
    assert_eq!(contents(&image), contents(&sound));
}

#[test]
fn a_broken_chain_is_named_and_kept() {
    let mut image = closed_store();
    let second = parts(&image).1.volumes[&id(&image, "other")].pages[1];
    page(&mut image, second)[100] ^= 1;
    let text = format!("metadata page {second} has a wrong checksum");
    assert_finds(&look(&image), Severity::Damage, false, &text);
    assert_finds(&look(&repaired(&image)), Severity::Damage, false, &text);
    let kept = *page(&mut repaired(&image), second);
    assert_eq!(*page(&mut image, second), kept);
}

#[test]
fn a_page_that_cannot_be_read_and_that_nobody_names_may_be_a_lost_volume() {
    let mut image = closed_store();
    let first = id(&image, "other").page();
    page(&mut image, first)[200] ^= 1;
    assert_finds(&look(&image), Severity::Damage, false, "a volume may be lost");
}

#[test]
fn the_rest_of_a_deletion_is_erased() {
    let sound = closed_store();
    let mut image = sound.clone();
    let volume = parts(&image).1.volumes[&id(&image, "other")].clone();
    let others = volume.pages.iter().skip(1).chain(&volume.blob.extent_pages);
    for number in others.copied().filter(|number| *number != 0) {
        page(&mut image, number).fill(0);
    }
    assert_finds(&look(&image), Severity::Damage, true, "is empty");
    let image = repaired(&image);
    assert!(look(&image).findings.is_empty(), "{:#?}", look(&image).findings);
    let mut rest = contents(&sound);
    rest.retain(|_, (name, _)| name != "other");
    assert_eq!(contents(&image), rest);
}

#[test]
fn a_damaged_super_block_is_an_error_and_nothing_is_written() {
    let mut image = closed_store();
    image[100] ^= 1;
    let disk = SimDisk::new(image.clone());
    assert_eq!(run(drivebay_blobstore::check(&disk)).unwrap_err().errno, 84);
    let disk = SimDisk::new(image.clone());
    assert!(run(repair(disk)).is_err());
    assert_eq!(run(SimDisk::new(image.clone()).read(0, PAGE)).unwrap(), image[..PAGE]);
}

#[test]
fn a_page_with_another_owner_is_not_repaired_by_guessing() {
    let mut image = closed_store();
    let second = parts(&image).1.volumes[&id(&image, "other")].pages[1];
    let bytes = page(&mut image, second);
    bytes[0] ^= 0x40;
    seal(bytes);
    assert_finds(&look(&image), Severity::Damage, false, "belongs to another blob");
}

#[test]
fn clusters_of_two_volumes_are_one_finding_for_each_of_them() {
    let mut image = closed_store();
    let shared: Vec<u32> = blob(&image, "other").map.iter().map(|(_, cluster)| cluster).collect();
    own(&mut image, "volume", 7, shared[0]);
    own(&mut image, "volume", 8, shared[1]);
    let report = look(&image);
    let text = format!("clusters {}-{} of the disk belong to blob", shared[0], shared[1]);
    assert_finds(&report, Severity::Damage, false, &text);
    assert_eq!(report.findings.len(), 2, "{report}");
}

#[test]
fn a_store_that_takes_no_more_changes_is_checked_and_says_why() {
    let store = run(Store::load(SimDisk::new(closed_store()))).unwrap();
    let id = store.volumes()[0].id;
    run(store.rename_volume(id, "first")).unwrap();
    store.disk().fail_in(Some(0), true);
    assert!(run(store.rename_volume(id, "second")).is_err());
    store.disk().fail_in(None, false);
    assert_eq!(run(store.rename_volume(id, "third")).unwrap_err().errno, 5);
    let report = run(store.check()).unwrap();
    assert_finds(&report, Severity::Note, true, "takes no changes until it is loaded again");
    assert_eq!(contents(&store.into_disk().image()).len(), 3);
}
