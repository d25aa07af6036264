//! The host stops while initiators are at work.

use crate::raw::{NO_DIGESTS, Raw, icreq, read, write};
use crate::target::{NQN, Target};
use crate::witness::Witness;
use drivebay_nvme_driver::Error;
use rustix::process::Signal;
use serde_json::json;
use std::io::ErrorKind;
use std::time::Duration;

/// The longest time of a stop. It is far below the bound after which the host exits without waiting for its plugins.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn sigterm_under_load_drains_and_ends_every_connection_in_order() {
    let mut target = Target::start();
    let loads: Vec<Witness> = (0..6).map(|i| Witness::start(target.options(), 1 + i % 2)).collect();
    let (mut idle, mut queue, _) = target.connect_io();
    idle.request_event().unwrap();
    let took = target.host.stop();
    assert!(took < LONGEST, "{took:?}");
    for load in loads {
        // Data that was in flight to the host when it closed the connection turns the end into a reset.
        let Error::Io(error) = load.ended_by() else { panic!("any other error is wrong") };
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
    }
    // A client that waits sees the end of the stream, and nothing before it.
    for error in [idle.event(LONGEST).unwrap_err(), queue.reap().unwrap_err()] {
        let Error::Io(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
    assert!(!target.host.socket().exists());
}

#[test]
fn sigterm_does_not_wait_for_peers_in_the_middle_of_something() {
    let mut target = Target::start();
    let controller = target.connect();
    let (stuck, asked, half) = (target.connect(), target.connect(), target.connect());
    let mut silent = Raw::silent(target.address);
    silent.send(&[0; 4]);
    let queue = |cntlid| Raw::io_queue(target.address, cntlid, icreq(NO_DIGESTS));
    // One peer does not read its data, one does not send the requested data, and one sends half a command.
    let mut reads = queue(stuck.cntlid());
    let many: Vec<u8> = (0..100).flat_map(|cid| reads.capsule(read(cid, 0, 256), &[])).collect();
    reads.send(&many);
    let mut writes = queue(asked.cntlid());
    writes.send(&writes.capsule(write(1, 0, 256), &[]));
    writes.r2t();
    let mut halves = queue(half.cntlid());
    halves.send(&halves.capsule(read(1, 0, 1), &[])[..30]);
    target.host.signal(Signal::TERM);
    let (status, took) = target.host.wait_end();
    assert!(status.success(), "{status}");
    // The peer that does not read has 5 s to read its last bytes.
    assert!(took < LONGEST + Duration::from_secs(5), "{took:?}");
    drop(controller);
}

#[test]
fn sigkill_is_seen_as_the_end_of_the_connection() {
    let mut target = Target::start();
    let load = Witness::start(target.options(), 1);
    target.host.signal(Signal::KILL);
    assert!(!target.host.wait_end().0.success());
    assert!(matches!(load.ended_by(), Error::Io(_)));
}

#[test]
fn every_plugin_is_unloaded_in_its_turn_and_comes_back_on_demand() {
    let target = Target::start();
    let load = Witness::start(target.options(), 1);
    let refused = target.refused("plugin_unload", json!({"name": "nvmf"}));
    assert_eq!(refused.code, -16, "{refused:?}");
    target.call("plugin_unload", json!({"name": "nvmf-tcp"}));
    assert!(matches!(load.ended_by(), Error::Io(_)));
    assert_eq!(target.call("nvmf_get_transports", json!({})), json!([]));
    target.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    let address = target.host.listen(NQN, std::net::Ipv4Addr::LOCALHOST.into());
    let options = drivebay_nvme_driver::Options::new(address, NQN);
    Witness::start(options, 1).finish(LONGEST);
}
