//! Connections that break: in every state, at once or after a long silence. No other client notices, and all memory is
//! returned.

use crate::host::{Footprint, eventually};
use crate::raw::{BOTH_DIGESTS, NO_DIGESTS, Raw, connect_data, icreq, read, write};
use crate::target::{NQN, Target, pattern};
use crate::witness::Witness;
use drivebay_nvme_driver::spec::fabrics::{CNTLID_DYNAMIC, Connect};
use drivebay_nvme_driver::spec::nqn::DISCOVERY;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::spec::{Command, opcode};
use drivebay_nvme_driver::tcp::IcReq;
use drivebay_nvme_driver::{Controller, Options};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_secs(5);

type Break = fn(SocketAddr, u16);

fn icreq_bytes() -> [u8; IcReq::LEN] {
    let mut bytes = [0; IcReq::LEN];
    icreq(NO_DIGESTS).encode(&mut bytes);
    bytes
}

/// The capsule of a Connect to an admin queue.
fn connect_bytes(raw: &Raw) -> Vec<u8> {
    let connect = Connect { sqsize: 31, ..Connect::default() };
    raw.capsule(connect.to_command(), &connect_data(NQN, CNTLID_DYNAMIC).encode())
}

/// An I/O queue with a write of 128 KiB for which the target has sent an R2T, and the PDU that answers it.
fn asked(address: SocketAddr, cntlid: u16) -> (Raw, Vec<u8>) {
    let mut raw = Raw::io_queue(address, cntlid, icreq(BOTH_DIGESTS));
    raw.send(&raw.capsule(write(1, 0, 256), &[]));
    let r2t = raw.r2t();
    let answer = raw.answer(&r2t, &pattern(0, 1, 256));
    (raw, answer)
}

/// The states in which a connection is dropped. Each function gets the address and the id of the controller to join.
const STATES: [(&str, Break); 15] = [
    ("nothing sent", |address, _| drop(Raw::silent(address))),
    ("half an ICReq", |address, _| Raw::silent(address).send(&icreq_bytes()[..60])),
    ("ICReq, whose answer nobody reads", |address, _| Raw::silent(address).send(&icreq_bytes())),
    ("initialized", |address, _| drop(Raw::open(address, icreq(NO_DIGESTS)))),
    ("half a Connect", |address, _| {
        let mut raw = Raw::open(address, icreq(NO_DIGESTS));
        raw.send(&connect_bytes(&raw)[..500]);
    }),
    ("Connect, whose answer nobody reads", |address, _| {
        let mut raw = Raw::open(address, icreq(NO_DIGESTS));
        raw.send(&connect_bytes(&raw));
    }),
    ("an admin queue with requests for events", |address, _| {
        let mut raw = Raw::admin_queue(address, icreq(NO_DIGESTS));
        for cid in 0..4 {
            let request = Command::new(opcode::admin::ASYNC_EVENT_REQUEST).with_cid(cid);
            raw.send(&raw.capsule(request, &[]));
        }
    }),
    ("half a capsule", |address, cntlid| {
        let mut raw = Raw::io_queue(address, cntlid, icreq(NO_DIGESTS));
        raw.send(&raw.capsule(read(1, 0, 1), &[])[..40]);
    }),
    ("half of the data in a capsule", |address, cntlid| {
        let mut raw = Raw::io_queue(address, cntlid, icreq(NO_DIGESTS));
        let sgl = SglDescriptor::InCapsule { offset: 0, length: 4096 };
        let capsule = raw.capsule(write(1, 0, 8).with_sgl1(sgl), &[1; 4096]);
        raw.send(&capsule[..2000]);
    }),
    ("data was asked for", |address, cntlid| drop(asked(address, cntlid))),
    ("in the middle of H2CData", |address, cntlid| {
        let (mut raw, answer) = asked(address, cntlid);
        raw.send(&answer[..answer.len() / 2]);
    }),
    ("H2CData without its digest", |address, cntlid| {
        let (mut raw, answer) = asked(address, cntlid);
        raw.send(&answer[..answer.len() - 4]);
    }),
    ("a write on its way to the disk", |address, cntlid| {
        let (mut raw, answer) = asked(address, cntlid);
        raw.send(&answer);
    }),
    ("data half sent to a host that does not read", |address, cntlid| {
        drop(unread(address, cntlid))
    }),
    ("a burst of commands and half a one", |address, cntlid| {
        let mut raw = Raw::io_queue(address, cntlid, icreq(NO_DIGESTS));
        let reads: Vec<u8> = (0..100).flat_map(|cid| raw.capsule(read(cid, 0, 8), &[])).collect();
        raw.send(&reads[..reads.len() - 30]);
    }),
];

/// A host that reads 15 MiB but receives only one answer.
fn unread(address: SocketAddr, cntlid: u16) -> Raw {
    let mut raw = Raw::io_queue(address, cntlid, icreq(BOTH_DIGESTS));
    let reads: Vec<u8> = (0..120).flat_map(|cid| raw.capsule(read(cid, 0, 256), &[])).collect();
    raw.send(&reads);
    raw.read();
    raw
}

/// The footprint after six such hosts at once. For buffers it has only the highest use. These hosts use far more buffers than the other
/// states, so every buffer that another state loses raises this highest use.
fn most_at_once(target: &Target) -> Footprint {
    let greedy: Vec<(Raw, Controller)> = (0..6)
        .map(|_| target.connect())
        .map(|controller| (unread(target.address, controller.cntlid()), controller))
        .collect();
    target.settled_footprint();
    drop(greedy);
    target.settled_footprint()
}

#[test]
fn a_connection_dropped_in_each_state_is_gone_with_all_it_had() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    let round = || {
        for (what, state) in &STATES {
            let mut controller = target.connect();
            state(target.address, controller.cntlid());
            controller.keep_alive().unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    };
    for _ in 0..4 {
        round();
    }
    let before = most_at_once(&target);
    let rounds = crate::times(60, 300);
    (0..rounds).for_each(|_| round());
    most_at_once(&target);
    target.assert_footprint(&before, rounds);
    eventually("the witness alone is left", || (target.controllers().len() == 1).then_some(()));
    witness.finish(LONGEST);
}

#[test]
fn connecting_and_disconnecting_again_and_again_leaves_nothing_behind() {
    let target = Target::start();
    let cycle = |i: usize| {
        let options = if i.is_multiple_of(2) {
            target.options()
        } else {
            Options { digests: BOTH_DIGESTS, ..target.options() }
        };
        let (controller, mut queue, namespace) = target.connect_io_with(options).unwrap();
        queue.run(namespace.write(0, pattern(0, 1, 16)).unwrap()).unwrap().ok().unwrap();
        queue.run(namespace.read(0, 256).unwrap()).unwrap().ok().unwrap();
        drop(queue);
        // Half of the connections end cleanly, and the others close without notice.
        if i % 4 < 2 {
            controller.shutdown().unwrap();
        }
    };
    (0..50).for_each(cycle);
    let before = target.settled_footprint();
    let cycles = crate::times(200, 1000);
    (0..cycles).for_each(cycle);
    target.assert_footprint(&before, cycles / 4);
    eventually("no controller is left", || target.controllers().is_empty().then_some(()));
}

#[test]
fn sockets_that_say_nothing_keep_nobody_out() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    let before = target.settled_footprint();
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(target.address).unwrap()).collect();
    let mut halves: Vec<Raw> = (0..100).map(|_| Raw::silent(target.address)).collect();
    for half in &mut halves {
        half.send(&icreq_bytes()[..100]);
    }
    let (_controller, mut queue, namespace) = target.connect_io();
    queue.run(namespace.read(0, 8).unwrap()).unwrap().ok().unwrap();
    let now = target.footprint();
    assert!(now.files >= before.files + 300);
    // Each of the 300 connections has a receive buffer of 64 KiB, whose pages become resident at their first use.
    assert!(now.resident_kib < before.resident_kib + 300 * 80, "{before:?} {now:?}");
    if crate::times(0, 1) == 1 {
        // The target closes connections that have not connected within 30 s.
        let begun = Instant::now();
        for half in &mut halves {
            half.wire.set_timeout(Duration::from_secs(60));
            assert!(half.wire.wait_closed().unwrap());
        }
        assert!(begun.elapsed() > Duration::from_secs(20));
        drop(silent);
    } else {
        drop((silent, halves));
    }
    drop((queue, _controller));
    target.footprint_like(&before);
    witness.finish(LONGEST);
}

#[test]
fn a_peer_that_sends_a_byte_at_a_time_is_served_and_keeps_nobody_waiting() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    let controller = target.connect();
    let mut raw = Raw::silent(target.address);
    let dribble = |raw: &mut Raw, bytes: &[u8]| {
        for byte in bytes {
            raw.send(std::slice::from_ref(byte));
        }
    };
    dribble(&mut raw, &icreq_bytes());
    assert_eq!(raw.read().bytes.len(), IcReq::LEN);
    let connect = Connect { qid: 1, sqsize: 31, ..Connect::default() };
    let data = connect_data(NQN, controller.cntlid()).encode();
    let capsule = raw.capsule(connect.to_command(), &data);
    dribble(&mut raw, &capsule);
    assert!(raw.completion().status.is_success());
    let data = pattern(5, 1, 2);
    let sgl = SglDescriptor::InCapsule { offset: 0, length: 1024 };
    let capsule = raw.capsule(write(1, 5, 2).with_sgl1(sgl), &data);
    dribble(&mut raw, &capsule);
    assert!(raw.completion().status.is_success());
    let capsule = raw.capsule(write(2, 7, 2), &[]);
    dribble(&mut raw, &capsule);
    let r2t = raw.r2t();
    let answer = raw.answer(&r2t, &data);
    dribble(&mut raw, &answer);
    assert!(raw.completion().status.is_success());
    raw.send(&raw.capsule(read(3, 5, 4), &[]));
    assert!(raw.c2h_data().1 == [&data[..], &data[..]].concat());
    witness.finish(LONGEST);
}

#[test]
fn a_peer_that_stops_reading_holds_no_more_than_its_queue_and_may_go_on() {
    let target = Target::start();
    let (controller, mut queue, namespace) = target.connect_io();
    for i in 0..8 {
        queue.run(namespace.write(i * 256, pattern(i * 256, 1, 256)).unwrap()).unwrap();
    }
    drop(queue);
    let witness = Witness::start(target.options(), 2);
    let mut raw = eventually("queue 1 is free", || {
        let mut raw = Raw::open(target.address, icreq(BOTH_DIGESTS));
        let connect = Connect { qid: 1, sqsize: 127, ..Connect::default() };
        let data = connect_data(NQN, controller.cntlid());
        raw.connect(connect, &data).status.is_success().then_some(raw)
    });
    let before = target.footprint();
    // The peer requests 64 MiB and reads nothing. At most 16 MiB of that may be in memory at once.
    let count = 512;
    let reads: Vec<u8> = (0..count)
        .flat_map(|cid| raw.capsule(read(cid, u64::from(cid % 8) * 256, 256), &[]))
        .collect();
    raw.send(&reads);
    witness.wait_for(400);
    let now = target.footprint();
    assert!(now.buffers[1] <= before.buffers[1] + 160, "{before:?} {now:?}");
    assert!(now.resident_kib < before.resident_kib + (24 << 10), "{before:?} {now:?}");
    // RPC calls continue, too.
    assert_eq!(target.controllers().len(), 2);
    for _ in 0..count {
        let (pdu, data) = raw.c2h_data();
        let slba = u64::from(pdu.cccid % 8) * 256;
        assert!(data == pattern(slba, 1, 256), "command {}", pdu.cccid);
        assert_eq!(raw.completion().cid, pdu.cccid);
    }
    raw.assert_alive();
    witness.finish(LONGEST);
}

#[test]
fn peers_that_do_not_read_lose_their_connection_and_all_buffers_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let pools = json!({"small_pool_count": 64, "large_pool_count": 64});
    let call = json!({"method": "iobuf_set_options", "params": pools});
    let document = json!({"subsystems": [{"subsystem": "iobuf", "config": [call]}]});
    fs::write(&config, document.to_string()).unwrap();
    let flags = ["-c", config.to_str().unwrap()];
    let target = Target::with(&flags, json!({"ack_timeout": 1000}));
    let witness = Witness::start(target.options(), 2);
    let mut stuck: Vec<(Controller, Raw)> = Vec::new();
    for _ in 0..3 {
        let controller = target.connect();
        let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
        let reads: Vec<u8> = (0..120).flat_map(|cid| raw.capsule(read(cid, 0, 256), &[])).collect();
        raw.send(&reads);
        stuck.push((controller, raw));
    }
    let queues = || {
        let stats = target.call("nvmf_get_stats", json!({}));
        stats["poll_groups"][0]["current_io_qpairs"].as_u64().unwrap()
    };
    eventually("the witness alone has a queue", || (queues() == 1).then_some(()));
    let used = target.call("iobuf_get_stats", json!({}))[0]["large_pool"]["main"].clone();
    assert!(used.as_u64().unwrap() >= 32, "the peers used less than their share: {used}");
    witness.wait_for(200);
    for (controller, _) in &mut stuck {
        controller.keep_alive().unwrap();
    }
    // Do not require that the witness noticed nothing. It may wait, but no longer than the time limit of the peers that hold the memory.
    witness.finish(Duration::from_secs(15));
}

/// The host's processor time, in nanoseconds, for each of `count` discovery controllers that all end at once.
fn cost_of_ends(count: u32) -> u64 {
    let target = Target::start();
    let at = target.listen(DISCOVERY, Ipv4Addr::LOCALHOST.into());
    let queues = || {
        let stats = target.call("nvmf_get_stats", json!({}));
        stats["poll_groups"][0]["current_admin_qpairs"].as_u64().unwrap()
    };
    let controllers: Vec<Controller> = (0..count)
        .map(|_| {
            let mut controller = Controller::connect(Options::new(at, DISCOVERY)).unwrap();
            for _ in 0..4 {
                controller.request_event().unwrap();
            }
            controller
        })
        .collect();
    target.signal(Signal::STOP);
    drop(controllers);
    let begin_ns = target.processor_ns();
    target.signal(Signal::CONT);
    eventually("all have ended", || (queues() == 0).then_some(()));
    queues(); // The app thread answers this call after it has handled all messages about the ends.
    (target.processor_ns() - begin_ns) / u64::from(count)
}

#[test]
fn a_controller_costs_the_same_at_its_end_however_many_end_at_once() {
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most }).unwrap();
    let [few, many] = [100, 1000].map(cost_of_ends);
    eprintln!("one of 100 costs {few} ns, one of 1000 costs {many} ns");
    assert!(many < 2 * few, "the cost of one grows with their number: {few} ns, {many} ns");
}

#[test]
fn a_host_that_vanishes_without_a_word_is_ended_by_its_keep_alive() {
    let target = Target::with(&[], json!({"kas": 1, "min_kato": 100}));
    let witness = Witness::start(target.options(), 2);
    let options = Options { keep_alive_ms: 500, ..target.options() };
    // Keep them open, like the connections of a host that lost power.
    let gone: Vec<Controller> =
        (0..8).map(|_| Controller::connect(options.clone()).unwrap()).collect();
    assert_eq!(target.controllers().len(), 9);
    eventually("the others are ended", || (target.controllers().len() == 1).then_some(()));
    drop(gone);
    witness.finish(LONGEST);
}
