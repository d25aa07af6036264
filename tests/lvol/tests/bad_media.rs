//! Metadata with any numbers and correct checksums: the store does not crash, does not write outside of the disk,
//! and gives no cluster of a served volume a second owner.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

use drivebay_blobstore::spec::{Bits, SuperBlock, seal};
use drivebay_blobstore::{Place, Store, check, repair};
use drivebay_lvol_tests::{Random, Scenario, SimDisk, new_store, run};

const PAGE: usize = 4096;
const IMAGES: u64 = 150;

/// A store after some operations, closed or open.
fn store(seed: u64) -> (Scenario, Store<SimDisk>) {
    let mut scenario = Scenario::new(seed);
    let store = new_store();
    for _ in 0..25 {
        _ = scenario.choose(&store).apply(&store);
    }
    if scenario.random.below(2) == 0 {
        run(store.close()).unwrap();
    }
    (scenario, store)
}

/// Changes bytes of a page in use and corrects its checksum.
fn damage(image: &mut [u8], block: &SuperBlock, random: &mut Random) {
    let pages: Vec<usize> = (0..block.metadata.len)
        .map(|page| block.md_page_offset(page) as usize)
        .filter(|at| image[*at..][..PAGE].iter().any(|byte| *byte != 0))
        .collect();
    let at = pages[random.below(pages.len())];
    let page: &mut [u8; PAGE] = image[at..][..PAGE].first_chunk_mut().unwrap();
    let used = page[..4088].iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    for _ in 0..=random.below(3) {
        let byte = match random.below(8) {
            // The number of the next page.
            0 => 4088 + random.below(4),
            _ => random.below(used),
        };
        page[byte] = match random.below(3) {
            0 => 0xff,
            1 => 0,
            _ => random.number() as u8,
        };
    }
    seal(page);
}

/// Each cluster of a served volume has one owner and lies on the disk.
fn assert_owners(store: &Store<SimDisk>, what: &str) {
    let block = store.super_block();
    let mut owned = Bits::new(block.total_clusters());
    for info in store.volumes().into_iter().filter(|info| info.faults.is_empty()) {
        for index in 0..info.num_clusters.min(2000) {
            if let Place::Own(cluster) = store.place(info.id, index) {
                let range = block.md_clusters()..block.total_clusters();
                assert!(range.contains(&cluster), "{what}: cluster {cluster} is out of range");
                assert!(owned.set(cluster), "{what}: cluster {cluster} has two owners");
            }
        }
    }
}

#[test]
fn whatever_a_page_says_nothing_crashes_and_no_cluster_gets_a_second_owner() {
    let (mut quarantined, mut served) = (0, 0);
    for seed in 1..=IMAGES {
        let (mut scenario, store) = store(seed);
        let mut image = store.disk().image();
        damage(&mut image, &store.super_block(), &mut scenario.random);
        let report = run(check(&SimDisk::new(image.clone()))).unwrap();
        let what = format!("seed {seed}, {report}");
        let Ok(store) = run(Store::load(SimDisk::new(image.clone()))) else { continue };
        let volumes = store.volumes();
        quarantined += volumes.iter().filter(|info| !info.faults.is_empty()).count();
        served += volumes.iter().filter(|info| info.faults.is_empty()).count();
        for _ in 0..8 {
            let op = scenario.choose(&store);
            _ = op.apply(&store);
            assert_owners(&store, &format!("{what}: {op:?}"));
        }
        if let Ok(disk) = run(repair(SimDisk::new(image))) {
            assert_owners(&run(Store::load(disk)).unwrap(), &what);
        }
    }
    assert!(quarantined > 10 && served > 10, "{quarantined} quarantined, {served} served");
}

#[test]
fn a_super_block_with_numbers_that_cannot_be_is_refused() {
    let (_, store) = store(1);
    let image = store.disk().image();
    let mut refused = 0;
    // Sets each number of the super block in turn to its largest value, then to one more than the disk holds.
    for (at, len) in [
        (8, 4),
        (12, 4),
        (28, 4),
        (32, 4),
        (36, 4),
        (40, 4),
        (44, 4),
        (48, 4),
        (52, 4),
        (72, 4),
        (76, 4),
        (80, 8),
        (88, 4),
        (92, 4),
    ] {
        for value in [u64::MAX, u64::MAX >> 1, 1 << 31, 0x7fff_f000, 1] {
            let mut image = image.clone();
            image[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            seal(image.first_chunk_mut().unwrap());
            match run(Store::load(SimDisk::new(image))) {
                Ok(store) => assert_owners(&store, &format!("byte {at}, {value:#x}")),
                Err(error) => {
                    assert!(!error.message.is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 40, "only {refused} were refused");
}
