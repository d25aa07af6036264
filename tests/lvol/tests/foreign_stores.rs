//! Opens, reads and changes stores that SPDK wrote, and expects them to be sound afterwards.
//!
//! `tests/stores/` holds images that SPDK's target wrote, a development version after 26.05. `clean` was closed
//! cleanly. The target was killed with SIGKILL while `killed` and `changed` were open. In `changed`, volumes were
//! inflated, decoupled, grown, shrunk, given another parent, and deleted. `*.volumes` has the size and the SHA-256 of
//! each volume as that target read it. An image (`*.blocks`) has its size (8 bytes) and a record for each 4 KiB block
//! that is not zero: number (4), kind and length (2), bytes. Kind 0x8000: the bytes repeat. Kind 0x4000: the last eight
//! bytes end the block. Any other kind: zeros follow.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use drivebay_blobstore::{Disk, NewVolume, Place, Store};
use drivebay_lvol_tests::{SimDisk, check, run};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const BLOCK: usize = 4096;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores").join(name)).unwrap()
}

fn image(name: &str) -> Vec<u8> {
    let file = file(&format!("{name}.blocks"));
    let (size, mut rest) = file.split_first_chunk::<8>().unwrap();
    let mut image = vec![0; usize::try_from(u64::from_le_bytes(*size)).unwrap()];
    while let Some((head, more)) = rest.split_first_chunk::<6>() {
        let number = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let kind = u16::from_le_bytes(head[4..].try_into().unwrap());
        let len = usize::from(kind & 0x3fff);
        let (bytes, mut later) = more.split_at(len);
        let block = &mut image[number * BLOCK..][..BLOCK];
        if kind & 0x8000 != 0 {
            block.chunks_mut(len).for_each(|unit| unit.copy_from_slice(bytes));
        } else {
            block[..len].copy_from_slice(bytes);
        }
        if kind & 0x4000 != 0 {
            let end;
            (end, later) = later.split_at(8);
            block[BLOCK - 8..].copy_from_slice(end);
        }
        rest = later;
    }
    image
}

fn open(image: Vec<u8>) -> Store<SimDisk> {
    run(Store::load(SimDisk::new(image).with_external(Vec::new()))).unwrap()
}

/// Size and SHA-256 of each volume.
fn contents(store: &Store<SimDisk>) -> BTreeMap<String, (u64, String)> {
    let size = store.super_block().cluster_size as usize;
    let volumes = store.volumes().into_iter().map(|info| {
        assert_eq!(info.faults, [], "{}", info.name);
        let mut hash = Sha256::new();
        for index in 0..info.num_clusters {
            hash.update(match store.place(info.id, index) {
                Place::Own(cluster) | Place::Inherited(cluster) => {
                    run(store.disk().read(store.cluster_offset(cluster), size)).unwrap()
                }
                Place::Zero | Place::External(_) => vec![0; size],
            });
        }
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (info.name, (u64::from(info.num_clusters) * size as u64, hash))
    });
    volumes.collect()
}

fn expected(name: &str) -> BTreeMap<String, (u64, String)> {
    let text = String::from_utf8(file(&format!("{name}.volumes"))).unwrap();
    let volumes = text.lines().map(|line| {
        let mut fields = line.split(' ').map(str::to_owned);
        let mut field = || fields.next().unwrap();
        (field(), (field().parse().unwrap(), field()))
    });
    volumes.collect()
}

#[test]
fn a_store_that_was_closed_and_one_that_was_killed_read_as_their_writer_read_them() {
    for (name, of_store) in [("clean", "refstore"), ("killed", "refstore"), ("changed", "refmore")]
    {
        let image = image(name);
        let store = open(image.clone());
        assert_eq!(store.super_block().clean, name == "clean");
        assert_eq!(store.info().unwrap().name, of_store);
        assert_eq!(contents(&store), expected(name), "{name}");
        check(store.disk().image());
        // Opening a store writes nothing. The first write comes with the first change.
        assert!(store.disk().image() == image, "{name}: opening it wrote");
    }
}

#[test]
fn parents_flags_and_names_are_as_they_were_given() {
    let store = open(image("clean"));
    let volumes: BTreeMap<_, _> =
        store.volumes().into_iter().map(|info| (info.name.clone(), info)).collect();
    let parent = |name: &str| {
        let parent = volumes[name].parent?;
        Some(store.volume(parent).unwrap().name)
    };
    assert_eq!(parent("thin").as_deref(), Some("snap2"));
    assert_eq!(parent("snap2").as_deref(), Some("snap1"));
    assert_eq!(parent("clone2").as_deref(), Some("snap3"));
    assert_eq!(parent("snap3").as_deref(), Some("snap2"));
    assert_eq!(parent("thick"), None);
    assert!(volumes["thick"].is_read_only && !volumes["thick"].is_thin);
    assert!(volumes["snap1"].is_read_only && !volumes["clone"].is_read_only);
    let external = volumes["esnap"].external_parent.as_deref();
    // The format ends the name with a zero byte.
    assert_eq!(external, Some(&b"11111111-2222-4333-8444-555555555555\0"[..]));
}

#[test]
fn volumes_that_were_inflated_decoupled_resized_and_moved_are_what_they_became() {
    let store = open(image("changed"));
    let shape = |name: &str| {
        let info = store.volumes().into_iter().find(|info| info.name == name).unwrap();
        let parent = info.parent.map(|parent| store.volume(parent).unwrap().name);
        (info.num_clusters, info.num_allocated_clusters, info.is_thin, parent)
    };
    let under = |name: &str| Some(name.to_owned());
    assert_eq!(shape("inflated"), (12, 12, false, None));
    assert_eq!(shape("decoupled"), (12, 4, true, under("snap1")));
    assert_eq!(shape("grown"), (24, 4, true, under("snap1")));
    assert_eq!(shape("shrunk"), (8, 8, true, None));
    assert_eq!(shape("moved"), (12, 0, true, under("snap1")));
}

#[test]
fn a_store_of_another_is_changed_closed_and_read_again() {
    for name in ["clean", "killed"] {
        let store = open(image(name));
        let id =
            |name: &str| store.volumes().into_iter().find(|info| info.name == name).unwrap().id;
        run(store.decouple(id("clone2"))).unwrap();
        let unused = run(store.delete_volume(id("snap1"))).unwrap();
        run(store.recycle(unused));
        run(store.rename_volume(id("renamed"), "again")).unwrap();
        run(store.allocate(id("thin"), &[1, 200, 700])).unwrap();
        run(store.create_volume(&NewVolume {
            name: "new".into(),
            uuid: "00000000-0000-4000-8000-000000000001".into(),
            num_clusters: 9,
            thin: false,
            clear_method: None,
            external_parent: None,
        }))
        .unwrap();
        run(store.close()).unwrap();
        let again = open(store.disk().image());
        assert!(again.super_block().clean);
        let mut wanted = expected(name);
        wanted.remove("snap1");
        let renamed = wanted.remove("renamed").unwrap();
        wanted.insert("again".into(), renamed);
        let mut found = contents(&again);
        assert!(found.remove("new").is_some());
        assert_eq!(found, wanted, "{name}");
        check(again.disk().image());
    }
}
