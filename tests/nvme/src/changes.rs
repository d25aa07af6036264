//! Changes while hosts are connected, and what the hosts see of them.

use crate::host::eventually;
use crate::target::{BLOCK, NQN, Target, listen_address, pattern};
use crate::witness::Witness;
use drivebay_nvme_driver::spec::Status;
use drivebay_nvme_driver::spec::event::AsyncEvent;
use drivebay_nvme_driver::spec::log::lid;
use drivebay_nvme_driver::{Controller, Error, Options};
use serde_json::json;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
/// The longest round that the uninvolved client may have on a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

fn changed_namespaces(controller: &mut Controller) -> Vec<u32> {
    let page = controller.log_page(lid::CHANGED_NAMESPACES, 0, 4096).unwrap();
    let nsids = page.chunks_exact(4).map(|nsid| u32::from_le_bytes(nsid.try_into().unwrap()));
    nsids.take_while(|nsid| *nsid != 0).collect()
}

/// Makes a change, and expects that the host gets the event and that the log page lists the change.
fn assert_reported(controller: &mut Controller, nsid: u32, change: impl FnOnce()) {
    controller.request_event().unwrap();
    change();
    let event = controller.event(PATIENCE).unwrap();
    assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
    assert_eq!(changed_namespaces(controller), [nsid]);
    assert!(changed_namespaces(controller).is_empty());
}

#[test]
fn namespaces_that_come_go_and_grow_are_reported_and_listed() {
    let target = Target::start();
    let null = json!({"name": "n", "num_blocks": 2048, "block_size": BLOCK});
    target.call("bdev_null_create", null);
    let mut controller = target.connect();
    assert_reported(&mut controller, 3, || {
        target.add_namespace(NQN, "n");
    });
    assert_eq!(controller.namespaces().unwrap(), [1, 2, 3]);
    assert_eq!(controller.namespace(3).unwrap().num_blocks, 2048);
    assert_reported(&mut controller, 3, || {
        target.call("bdev_null_resize", json!({"name": "n", "new_size": 8}));
    });
    assert_eq!(controller.namespace(3).unwrap().num_blocks, 8 << 20 >> 9);
    assert_reported(&mut controller, 3, || {
        target.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 3}));
    });
    assert_eq!(controller.namespaces().unwrap(), [1, 2]);
    // When a bdev is removed, its namespace is removed, too.
    assert_reported(&mut controller, 2, || {
        target.call("bdev_malloc_delete", json!({"name": "m2"}));
    });
    assert_eq!(controller.namespaces().unwrap(), [1]);
}

#[test]
fn what_grew_is_reached_on_queues_that_were_there_before() {
    let target = Target::start();
    let null = json!({"name": "n", "num_blocks": 2048, "block_size": BLOCK});
    target.call("bdev_null_create", null);
    let nsid = target.add_namespace(NQN, "n");
    let (mut controller, mut queue, _) = target.connect_io();
    let mut namespace = controller.namespace(nsid).unwrap();
    let beyond = |namespace: &drivebay_nvme_driver::Namespace| namespace.read(4000, 1).unwrap();
    let refused = queue.run(beyond(&namespace)).unwrap().completion.status;
    assert_eq!(refused, Status::LBA_OUT_OF_RANGE.with_dnr());
    target.call("bdev_null_resize", json!({"name": "n", "new_size": 8}));
    namespace = controller.namespace(nsid).unwrap();
    eventually("the new size holds on every queue", || {
        queue.run(beyond(&namespace)).unwrap().ok().ok()
    });
}

#[test]
fn an_event_that_nobody_waits_for_is_kept() {
    let target = Target::start();
    let mut controller = target.connect();
    target.add_disk("m3");
    target.add_namespace(NQN, "m3");
    controller.request_event().unwrap();
    let event = controller.event(PATIENCE).unwrap();
    assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
    assert_eq!(changed_namespaces(&mut controller), [3]);
}

/// A second subsystem at the same address with its own disk. Its client must not notice the
/// changes.
fn neighbour(target: &Target) -> Options {
    let nqn = "nqn.2026-01.io.drivebay:neighbour";
    target.add_subsystem(nqn);
    target.add_disk("neighbour");
    target.add_namespace(nqn, "neighbour");
    let address = target.listen(nqn, Ipv4Addr::LOCALHOST.into());
    Options::new(address, nqn)
}

/// The connection was closed cleanly, or reset because data was in flight.
fn assert_closed(error: &Error) {
    let Error::Io(error) = error else { panic!("{error}") };
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    assert!(matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe), "{error}");
}

#[test]
fn a_subsystem_is_deleted_under_load() {
    let target = Target::start();
    let witness = Witness::start(neighbour(&target), 1);
    for round in 0..3 {
        let loads: Vec<Witness> =
            (0..4).map(|i| Witness::start(target.options(), 1 + i % 2)).collect();
        target.call("nvmf_delete_subsystem", json!({"nqn": NQN}));
        for load in loads {
            assert_closed(&load.ended_by());
        }
        assert!(Controller::connect(target.options()).is_err());
        // The bdevs and the name are free again.
        target.add_subsystem(NQN);
        for name in ["m1", "m2"] {
            target.add_namespace(NQN, name);
        }
        let listen = json!({"nqn": NQN, "listen_address": listen_address(target.address)});
        target.call("nvmf_subsystem_add_listener", listen);
        assert!(target.controllers().is_empty(), "round {round}");
    }
    witness.finish(LONGEST);
}

#[test]
fn a_listener_is_removed_under_load() {
    let target = Target::start();
    let second = target.listen(NQN, Ipv4Addr::LOCALHOST.into());
    // A client of the same subsystem at the other listener does not notice.
    let witness = Witness::start(Options::new(second, NQN), 2);
    let listen = json!({"nqn": NQN, "listen_address": listen_address(target.address)});
    for _ in 0..3 {
        let load = Witness::start(target.options(), 1);
        target.call("nvmf_subsystem_remove_listener", listen.clone());
        assert_closed(&load.ended_by());
        target.call("nvmf_subsystem_add_listener", listen.clone());
    }
    witness.finish(LONGEST);
}

#[test]
fn a_bdev_is_removed_under_load_and_its_connections_stay() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    for generation in 0..3 {
        let (mut controller, mut queue, namespace) = target.connect_io();
        let load = Witness::start(target.options(), 1);
        target.call("bdev_malloc_delete", json!({"name": "m1"}));
        let Error::Status { status, .. } = load.ended_by() else { panic!("a status was expected") };
        assert_eq!(status.code(), Status::INVALID_NAMESPACE_OR_FORMAT);
        let refused = queue.run(namespace.read(0, 1).unwrap()).unwrap().completion.status;
        assert_eq!(refused, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        assert_eq!(controller.namespaces().unwrap(), [2]);
        // The namespace returns with its number, and the old queue can use it.
        target.add_disk("m1");
        assert_eq!(target.add_namespace(NQN, "m1"), 1);
        let data = pattern(0, generation, 8);
        queue.run(namespace.write(0, data.clone()).unwrap()).unwrap().ok().unwrap();
        assert!(queue.run(namespace.read(0, 8).unwrap()).unwrap().ok().unwrap() == data);
    }
    witness.finish(LONGEST);
}

#[test]
fn a_namespace_is_added_and_removed_again_and_again_under_load() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 1);
    for _ in 0..crate::times(30, 1000) {
        let remove = json!({"nqn": NQN, "nsid": 2});
        target.call("nvmf_subsystem_remove_ns", remove);
        assert_eq!(target.add_namespace(NQN, "m2"), 2);
        thread::sleep(Duration::from_millis(2));
    }
    witness.finish(LONGEST);
}

#[test]
fn a_namespace_is_removed_while_others_use_it() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    for _ in 0..3 {
        let loads: Vec<Witness> = (0..3).map(|_| Witness::start(target.options(), 1)).collect();
        target.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
        for load in loads {
            let Error::Status { status, .. } = load.ended_by() else { panic!("a status") };
            assert_eq!(status.code(), Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        assert_eq!(target.add_namespace(NQN, "m1"), 1);
    }
    witness.finish(LONGEST);
}

#[test]
fn sixty_four_hosts_are_served_at_once() {
    let target = Target::start();
    let mut hosts: Vec<_> = (0..64).map(|_| target.connect_io()).collect();
    assert_eq!(target.controllers().len(), 64);
    for generation in 0..4 {
        for (i, (_, queue, namespace)) in hosts.iter_mut().enumerate() {
            for part in 0..4 {
                let slba = i as u64 * 64 + part * 16;
                queue
                    .submit(namespace.write(slba, pattern(slba, generation, 16)).unwrap())
                    .unwrap();
            }
            queue.flush().unwrap();
        }
        for (_, queue, _) in &mut hosts {
            while queue.outstanding() > 0 {
                queue.reap().unwrap().ok().unwrap();
            }
        }
        for (i, (_, queue, namespace)) in hosts.iter_mut().enumerate() {
            let slba = i as u64 * 64;
            let read = queue.run(namespace.read(slba + 48, 16).unwrap()).unwrap().ok().unwrap();
            assert!(read == pattern(slba + 48, generation, 16), "host {i}");
        }
    }
    let groups = target.call("nvmf_get_stats", json!({}));
    assert_eq!(groups["poll_groups"][0]["current_io_qpairs"], 64);
    drop(hosts);
    eventually("all have gone", || target.controllers().is_empty().then_some(()));
}
