//! Builds stores page by page, and checks how they are evaluated.

use super::*;
use crate::super_block::NewStore;
use crate::{PAGE_BYTES, seal};
use proptest::prelude::*;

fn block() -> SuperBlock {
    let new = NewStore {
        disk_bytes: 64 << 20,
        block_size: 4096,
        cluster_size: 1 << 20,
        num_md_pages: None,
        md_page_size: 4096,
        bstype: lvol::BSTYPE,
    };
    SuperBlock::plan(new).unwrap()
}

/// A store as its pages.
#[derive(Default)]
struct Store(BTreeMap<u32, Box<[u8; PAGE_BYTES]>>);

impl Store {
    /// Adds a thin blob at `page` with these clusters. Its extent page is at `page + 20`.
    fn add(&mut self, page: u32, clusters: &[u32], change: impl Fn(&mut Blob)) -> BlobId {
        let mut blob = Blob::new(BlobId::of_page(page));
        blob.flags.invalid |= Flags::THIN;
        blob.map.resize(8);
        for (index, cluster) in (0..).zip(clusters) {
            blob.map.set(index, (*cluster != 0).then_some(*cluster));
        }
        blob.extent_pages = vec![if blob.map.allocated() == 0 { 0 } else { page + 20 }];
        change(&mut blob);
        if blob.extent_pages[0] != 0 {
            self.0.insert(page + 20, blob.extent_page(0).encode());
        }
        let mut chain = blob.to_chain().unwrap();
        let last = chain.len() - 1;
        for (number, part) in chain.iter_mut().enumerate() {
            let place = |number| {
                if number == 0 { page } else { page + 40 + u32::try_from(number).unwrap() }
            };
            part.next = (number < last).then(|| place(number + 1));
            self.0.insert(place(number), part.encode());
        }
        blob.id
    }

    fn replay(&self) -> Model {
        let mut replay = Replay::new(&block());
        for (index, page) in &self.0 {
            replay.page(*index, &page[..]);
        }
        replay.finish()
    }
}

fn faults(model: &Model, id: BlobId) -> &[Fault] {
    &model.volumes[&id].faults
}

#[test]
fn masks_are_rebuilt_from_the_pages() {
    let mut store = Store::default();
    let blob = store.add(1, &[10, 0, 11], |_| {});
    let model = store.replay();
    assert_eq!(faults(&model, blob), []);
    assert_eq!(model.used_pages.iter().collect::<Vec<_>>(), [1, 21]);
    let md = 0..block().md_clusters();
    assert_eq!(
        model.used_clusters.iter().collect::<Vec<_>>(),
        md.chain([10, 11]).collect::<Vec<_>>()
    );
    assert_eq!(model.used_blobs().iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_cluster_with_two_owners_makes_both_bad_and_the_rest_serves() {
    let mut store = Store::default();
    let one = store.add(1, &[10], |_| {});
    let two = store.add(2, &[11, 10], |_| {});
    let three = store.add(3, &[12], |_| {});
    let model = store.replay();
    assert_eq!(faults(&model, one), [Fault::ClusterShared { cluster: 10, other: two }]);
    assert_eq!(faults(&model, two), [Fault::ClusterShared { cluster: 10, other: one }]);
    assert_eq!(faults(&model, three), []);
}

#[test]
fn an_intact_continuation_page_of_another_blob_is_not_taken() {
    let mut store = Store::default();
    let large = |blob: &mut Blob| blob.set_xattr(b"x", Some(vec![1; 4030]));
    let one = store.add(1, &[10], large);
    let two = store.add(2, &[11], large);
    let continuation_of_two = store.0[&43].clone();
    store.0.insert(42, continuation_of_two);
    let model = store.replay();
    assert_eq!(faults(&model, one), [Fault::Page { page: 42, why: "belongs to another blob" }]);
    assert_eq!(faults(&model, two), []);
}

#[test]
fn a_snapshot_cut_off_before_its_origin_named_it_is_dropped_with_nothing_lost() {
    let mut store = Store::default();
    let origin = store.add(1, &[10, 11], |_| {});
    let snapshot = store.add(2, &[10, 11], |blob| {
        blob.set_internal_blob(lvol::SNAPSHOT_IN_PROGRESS, origin);
        blob.extent_pages = vec![21];
    });
    let model = store.replay();
    assert_eq!(model.notes, [Note::SnapshotDropped(snapshot)]);
    assert_eq!(model.dropped[&snapshot], [2]);
    assert_eq!(faults(&model, origin), []);
    assert_eq!(model.volumes[&origin].blob.map.allocated(), 2);
}

#[test]
fn a_deletion_cut_off_before_the_clone_let_go_keeps_the_snapshot_and_shares_nothing() {
    let mut store = Store::default();
    let snapshot = store.add(2, &[10, 11], |blob| {
        blob.set_internal_blob(lvol::SNAPSHOT_PENDING_REMOVAL, BlobId::of_page(1));
    });
    let clone = store.add(1, &[12, 11], |blob| blob.set_internal_blob(lvol::PARENT, snapshot));
    let model = store.replay();
    assert_eq!(model.notes, [Note::SnapshotKept(snapshot)]);
    assert_eq!((faults(&model, snapshot), faults(&model, clone)), (&[][..], &[][..]));
    assert_eq!(model.volumes[&clone].blob.map.get(1), None);
    assert_eq!(model.volumes[&clone].blob.map.get(0), Some(12));
    assert!(model.volumes[&snapshot].blob.flags.is_data_read_only());
}

#[test]
fn a_cycle_of_parents_or_a_missing_one_is_named() {
    let mut store = Store::default();
    let (one, two, gone) = (BlobId::of_page(1), BlobId::of_page(2), BlobId::of_page(9));
    store.add(1, &[10], |blob| blob.set_internal_blob(lvol::PARENT, two));
    store.add(2, &[11], |blob| blob.set_internal_blob(lvol::PARENT, one));
    let orphan = store.add(3, &[12], |blob| blob.set_internal_blob(lvol::PARENT, gone));
    let model = store.replay();
    assert_eq!(faults(&model, one), [Fault::Cycle]);
    assert_eq!(faults(&model, two), [Fault::Cycle]);
    assert_eq!(faults(&model, orphan), [Fault::Missing(gone)]);
}

#[test]
fn clusters_of_the_metadata_or_past_the_end_are_refused() {
    let mut store = Store::default();
    let inside = store.add(1, &[block().md_clusters() - 1], |_| {});
    let outside = store.add(2, &[block().total_clusters()], |_| {});
    let zero = store.add(3, &[0], |_| {});
    let model = store.replay();
    assert!(matches!(faults(&model, outside), [Fault::ClusterRange { index: 0, .. }]));
    assert_eq!(faults(&model, zero), []);
    // Cluster 0 on disk means unallocated, so if the metadata has only one cluster, no entry can refer to it.
    assert_eq!(model.volumes[&inside].blob.map.allocated() == 0, block().md_clusters() == 1);
}

proptest! {
    #[test]
    fn any_changed_store_is_judged_and_owns_nothing_twice(
        changes in proptest::collection::vec((0_u32..64, 0_usize..200, any::<u8>()), 1..20),
        moves in proptest::collection::vec((0_u32..64, 0_u32..64), 0..4),
    ) {
        let mut store = Store::default();
        let snapshot = store.add(2, &[10, 11], |_| {});
        store.add(1, &[12, 13, 14], |blob| {
            blob.set_internal_blob(lvol::PARENT, snapshot);
            blob.set_xattr(b"x", Some(vec![1; 4000]));
        });
        store.add(3, &[20, 21], |blob| blob.set_internal_blob(lvol::SNAPSHOT_IN_PROGRESS, snapshot));
        for (page, at, byte) in changes {
            if let Some(page) = store.0.get_mut(&page) {
                page[at] ^= byte;
                seal(page);
            }
        }
        for (from, to) in moves {
            if let Some(page) = store.0.get(&from).cloned() {
                store.0.insert(to, page);
            }
        }
        let model = store.replay();
        let mut owned = Bits::new(block().total_clusters());
        for volume in model.volumes.values().filter(|volume| volume.faults.is_empty()) {
            for (_, cluster) in volume.blob.map.iter() {
                prop_assert!(owned.set(cluster), "two volumes without faults own cluster {cluster}");
            }
        }
    }
}
