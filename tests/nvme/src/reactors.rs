//! Two reactors: connections on both, and a disk that both use.

use crate::target::{Target, pattern};
use crate::witness::Witness;
use serde_json::json;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

const CORES: [&str; 2] = ["-m", "0x3"];

/// Whether this machine has cores 0 and 1. If not, it prints that.
fn has_two_cores() -> bool {
    let has = thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
    if !has {
        eprintln!("skipped: two cores are needed");
    }
    has
}

#[test]
fn each_core_has_a_poll_group_and_connections_are_spread() {
    if !has_two_cores() {
        return;
    }
    let target = Target::with(&CORES, json!({}));
    let mut hosts: Vec<_> = (0..8).map(|_| target.connect_io()).collect();
    let stats = target.call("nvmf_get_stats", json!({}));
    let groups = stats["poll_groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2);
    for group in groups {
        let queues = |kind: &str| group[kind].as_u64().unwrap();
        let all = queues("current_admin_qpairs") + queues("current_io_qpairs");
        assert_eq!(all, 8, "{group}");
    }
    let qpairs = target.call("nvmf_subsystem_get_qpairs", json!({"nqn": crate::target::NQN}));
    let mut threads = BTreeMap::<String, usize>::new();
    for qpair in qpairs.as_array().unwrap() {
        *threads.entry(qpair["thread"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(threads.into_values().collect::<Vec<_>>(), [8, 8]);
    // Each queue reads what the previous one has written, even from another core.
    let mut written = pattern(0, 0, 64);
    for (generation, (_, queue, namespace)) in (1..).zip(&mut hosts) {
        let read = queue.run(namespace.read(0, 64).unwrap()).unwrap().ok().unwrap();
        assert!(generation == 1 || read == written);
        written = pattern(0, generation, 64);
        queue.run(namespace.write(0, written.clone()).unwrap()).unwrap().ok().unwrap();
    }
    let stats = target.call("nvmf_get_stats", json!({}));
    for group in stats["poll_groups"].as_array().unwrap() {
        assert!(group["completed_nvme_io"].as_u64().unwrap() > 0, "{group}");
    }
}

#[test]
fn namespaces_change_while_both_cores_serve_them() {
    if !has_two_cores() {
        return;
    }
    let target = Target::with(&CORES, json!({}));
    let witnesses: Vec<Witness> = (0..4).map(|_| Witness::start(target.options(), 1)).collect();
    for _ in 0..crate::times(20, 500) {
        let remove = json!({"nqn": crate::target::NQN, "nsid": 2});
        target.call("nvmf_subsystem_remove_ns", remove);
        target.add_namespace(crate::target::NQN, "m2");
    }
    for witness in witnesses {
        witness.finish(Duration::from_secs(5));
    }
}

#[test]
fn two_cores_end_under_load() {
    if !has_two_cores() {
        return;
    }
    let mut target = Target::with(&CORES, json!({}));
    let loads: Vec<Witness> = (0..4).map(|_| Witness::start(target.options(), 1)).collect();
    let took = target.host.stop();
    assert!(took < Duration::from_secs(5), "{took:?}");
    for load in loads {
        let error = load.ended_by();
        assert!(matches!(error, drivebay_nvme_driver::Error::Io(_)), "{error}");
    }
}

#[test]
fn the_mode_of_the_reactors_makes_no_difference_to_what_is_served() {
    let target = Target::with(&["--mode", "polled"], json!({}));
    Witness::start(target.options(), 1).finish(Duration::from_secs(5));
}
