//! Power cuts and media errors in the middle of every operation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use drivebay_blobstore::{NewVolume, Store};
use drivebay_lvol_tests::{
    Dump, Op, Random, Scenario, SimDisk, check, dump, image_after, new_store, run,
};
use std::collections::BTreeMap;

/// The number of power cuts in a run of the tests. `LVOL_CUTS` sets another number.
fn cuts_wanted() -> usize {
    std::env::var("LVOL_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

const OPS_PER_SEED: usize = 40;
const CUTS_PER_OP: usize = 6;
/// For each kind, the test tries operations until this many writes have failed. In each operation, the
/// writes fail one after another.
const FAILURES_PER_KIND: usize = 60;

/// Calls `visit` again and again with a store after some operations, and with the next operation.
fn every_op(seed: u64, mut visit: impl FnMut(&mut Random, &Op, Vec<u8>, &Dump)) {
    let mut scenario = Scenario::new(seed);
    let mut store = new_store();
    for _ in 0..OPS_PER_SEED {
        scenario.write(&store);
        let op = scenario.choose(&store);
        let image = store.disk().image();
        let before = dump(&store);
        visit(&mut scenario.random, &op, image, &before);
        let done = op.apply(&store);
        if done.is_err() {
            assert_eq!(dump(&store), before, "seed {seed}: {op:?} failed and changed something");
        }
        if scenario.random.below(8) == 0 {
            store = run(Store::load(SimDisk::new(store.disk().image()))).unwrap();
        }
    }
}

/// Each volume is as before or as after the operation, and the set of volumes is one of the two sets.
fn assert_either(found: &Dump, before: &Dump, after: &Dump, what: &str) {
    let names = |dump: &Dump| dump.keys().cloned().collect::<Vec<_>>();
    let is_either = names(found) == names(before) || names(found) == names(after);
    assert!(is_either, "{what}: volumes {:?}", names(found));
    for (uuid, volume) in found {
        let is_either = before.get(uuid) == Some(volume) || after.get(uuid) == Some(volume);
        assert!(is_either, "{what}: volume {} is neither as before nor as after", volume.0);
    }
}

/// Runs `op` on the store of `image`, cuts power at a few places, and checks the remaining store.
fn cut(op: &Op, image: &[u8], before: &Dump, random: &mut Random, denies_cache: bool) -> usize {
    let store = run(Store::load(SimDisk::new(image.to_vec()))).unwrap();
    // All writes of the load are flushed before the operation begins, so no cut may lose them.
    let base = store.disk().image();
    _ = store.disk().take_log();
    if denies_cache {
        store.disk().deny_write_cache();
    }
    _ = op.apply(&store);
    let after = dump(&store);
    let log = store.disk().take_log();
    let cuts = CUTS_PER_OP.min(log.len() + 1);
    for cut in 0..cuts {
        let events = if cut == 0 { log.len() } else { random.below(log.len() + 1) };
        let what = format!("{op:?} cut at {events} of {}", log.len());
        let image = image_after(&base, &log, events, random);
        check(image.clone());
        let store = run(Store::load(SimDisk::new(image))).expect(&what);
        assert_either(&dump(&store), before, &after, &what);
        check(store.disk().image());
    }
    cuts
}

#[test]
fn after_a_power_cut_in_any_operation_each_volume_is_as_before_or_as_after() {
    let mut cuts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 1.. {
        every_op(seed, |random, op, image, before| {
            *cuts.entry(op.kind()).or_default() += cut(op, &image, before, random, false);
        });
        if cuts.values().sum::<usize>() >= cuts_wanted() {
            break;
        }
    }
    println!("power cuts by operation: {cuts:?}");
    assert!(cuts.len() >= 17, "not every operation was cut: {cuts:?}");
}

/// One volume releases clusters and another one takes them. Power is cut at every write.
#[test]
fn clusters_that_are_given_back_have_never_two_owners() {
    let store = new_store();
    let new = |name: &str, number: u64| NewVolume {
        name: name.into(),
        uuid: format!("00000000-0000-4000-8000-{number:012x}"),
        num_clusters: 20,
        thin: true,
        clear_method: None,
        external_parent: None,
    };
    let all: Vec<u32> = (0..20).collect();
    let [one, other] = [("a", 1), ("b", 2)]
        .map(|(name, number)| run(store.create_volume(&new(name, number))).unwrap());
    run(store.allocate(one, &all)).unwrap();
    run(store.snapshot(one, "s", "00000000-0000-4000-8000-000000000003")).unwrap();
    run(store.allocate(one, &all[..15])).unwrap();
    let base = store.disk().image();
    _ = store.disk().take_log();
    // The snapshot has data below each of these clusters, so they stay allocated.
    let released = run(store.release(one, &all, |_| panic!("nothing may go"))).unwrap();
    assert_eq!(released.indices, []);
    run(store.allocate(other, &all)).unwrap();
    let released = run(store.release(other, &all[5..], |_| {})).unwrap();
    assert_eq!(released.indices, all[5..]);
    run(store.recycle(released.unused));
    run(store.allocate(other, &all[17..])).unwrap();
    run(store.allocate(one, &all[15..])).unwrap();
    let log = store.disk().take_log();
    let mut random = Random::new(7);
    for events in 0..=log.len() {
        for _ in 0..3 {
            let image = image_after(&base, &log, events, &mut random);
            let loaded = run(Store::load(SimDisk::new(image))).expect("it opens");
            check(loaded.disk().image());
        }
    }
}

#[test]
fn a_store_that_does_not_flush_is_noticed() {
    let mut noticed = 0;
    every_op(1, |random, op, image, before| {
        let cut = std::panic::AssertUnwindSafe(|| cut(op, &image, before, random, true));
        noticed += usize::from(std::panic::catch_unwind(cut).is_err());
    });
    assert!(noticed > 0, "the order of writes makes no difference to these tests");
}

/// Each write and flush of each operation fails: once, or with all later ones.
#[test]
fn an_operation_whose_nth_write_fails_leaves_everything_as_it_was() {
    let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
    // Enough seeds for every kind of operation.
    for seed in 1..=20 {
        if failures.len() == Op::KINDS {
            break;
        }
        every_op(seed, |_, op, image, before| {
            if failures.get(op.kind()).is_some_and(|count| *count >= FAILURES_PER_KIND) {
                return;
            }
            let load = || {
                let store = run(Store::load(SimDisk::new(image.clone()))).unwrap();
                _ = store.disk().take_log();
                store
            };
            let store = load();
            _ = op.apply(&store);
            let (after, writes) = (dump(&store), store.disk().take_log().len());
            for (nth, stays_broken) in (0..writes).flat_map(|nth| [(nth, false), (nth, true)]) {
                let store = load();
                store.disk().fail_in(Some(nth), stays_broken);
                let done = op.apply(&store);
                let what = format!("seed {seed}: {op:?}, write {nth}, {stays_broken}: {done:?}");
                if done.is_err() && !stays_broken {
                    assert_eq!(&dump(&store), before, "{what}");
                }
                store.disk().fail_in(None, false);
                let image = store.disk().image();
                check(image.clone());
                let again = run(Store::load(SimDisk::new(image))).expect(&what);
                check(again.disk().image());
                if done.is_err() && !stays_broken {
                    assert_eq!(&dump(&again), before, "{what}, loaded again");
                }
                assert_either(&dump(&again), before, &after, &what);
                *failures.entry(op.kind()).or_default() += 1;
            }
        });
    }
    println!("failed writes by operation: {failures:?}");
    assert_eq!(failures.len(), Op::KINDS, "not every operation failed: {failures:?}");
}
