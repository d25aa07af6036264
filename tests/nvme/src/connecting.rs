//! Connect: the hosts that the target accepts, and the status that all others get. NVMe over Fabrics 1.1, section 3.3.

use crate::host::eventually;
use crate::raw::{NO_DIGESTS, Raw, connect_data, icreq};
use crate::target::{NQN, Target};
use drivebay_nvme_driver::spec::fabrics::{
    CNTLID_DYNAMIC, Connect, ConnectData, InvalidParameter, PropertyGet, disconnect,
};
use drivebay_nvme_driver::spec::identify::cns;
use drivebay_nvme_driver::spec::nqn::DISCOVERY;
use drivebay_nvme_driver::spec::property::offset;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::spec::text::NulText;
use drivebay_nvme_driver::spec::{Command, Status, admin, opcode};
use drivebay_nvme_driver::{Controller, Error, Host, Options, Request};
use serde_json::json;
use std::net::Ipv4Addr;

const ADMIN: Connect = Connect { recfmt: 0, qid: 0, sqsize: 31, cattr: 0, kato_ms: 0 };
const IO: Connect = Connect { qid: 1, sqsize: 127, ..ADMIN };

fn invalid(parameter: InvalidParameter) -> (Status, u32) {
    (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), parameter.to_dw0())
}

/// The same status without Do Not Retry, because the cause may go away.
fn for_now((status, dw0): (Status, u32)) -> (Status, u32) {
    (status.code(), dw0)
}

fn in_command(offset: u16) -> (Status, u32) {
    invalid(InvalidParameter::command(offset))
}

fn in_data(offset: u16) -> (Status, u32) {
    invalid(InvalidParameter::data(offset))
}

fn named(nqn: &str) -> NulText<256> {
    NulText::new(nqn).unwrap()
}

#[test]
fn each_wrong_field_of_an_admin_connect_is_reported_and_the_connection_may_try_again() {
    let target = Target::start();
    let good = connect_data(NQN, CNTLID_DYNAMIC);
    let mut unterminated = good.encode();
    unterminated[256..512].fill(b'a');
    let unterminated = ConnectData::parse(&unterminated);
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    for (connect, data, (status, dw0)) in [
        (
            Connect { recfmt: 1, ..ADMIN },
            good.clone(),
            (Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0),
        ),
        (Connect { sqsize: 0, ..ADMIN }, good.clone(), in_command(Connect::SQSIZE_OFFSET)),
        (Connect { sqsize: 128, ..ADMIN }, good.clone(), in_command(Connect::SQSIZE_OFFSET)),
        (Connect { sqsize: 0xffff, ..ADMIN }, good.clone(), in_command(Connect::SQSIZE_OFFSET)),
        (
            ADMIN,
            ConnectData { subnqn: named("nqn.2026-01.io.drivebay:none"), ..good.clone() },
            for_now(in_data(ConnectData::SUBNQN_OFFSET)),
        ),
        (
            ADMIN,
            ConnectData { subnqn: named("not a name"), ..good.clone() },
            for_now(in_data(ConnectData::SUBNQN_OFFSET)),
        ),
        (ADMIN, unterminated, in_data(ConnectData::SUBNQN_OFFSET)),
        (
            ADMIN,
            ConnectData { hostnqn: named("not a name\n"), ..good.clone() },
            in_data(ConnectData::HOSTNQN_OFFSET),
        ),
        (ADMIN, ConnectData { cntlid: 1, ..good.clone() }, in_data(ConnectData::CNTLID_OFFSET)),
        // An I/O queue of a controller that does not exist.
        (
            IO,
            ConnectData { cntlid: 77, ..good.clone() },
            for_now(in_data(ConnectData::CNTLID_OFFSET)),
        ),
    ] {
        let completion = raw.connect(connect, &data);
        assert_eq!((completion.status, completion.dw0()), (status, dw0), "{connect:?} {data:?}");
    }
    let completion = raw.connect(ADMIN, &good);
    assert!(completion.status.is_success(), "{}", completion.status);
    assert_eq!(target.controllers().len(), 1);
}

#[test]
fn a_host_without_a_name_may_connect_where_any_host_may() {
    let target = Target::start();
    let nameless = ConnectData { hostnqn: named(""), ..connect_data(NQN, CNTLID_DYNAMIC) };
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    assert!(raw.connect(ADMIN, &nameless).status.is_success());
    drop(raw);
    target.call("nvmf_subsystem_allow_any_host", json!({"nqn": NQN, "allow_any_host": false}));
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let completion = raw.connect(ADMIN, &nameless);
    assert_eq!((completion.status, completion.dw0()), in_data(ConnectData::HOSTNQN_OFFSET));
}

#[test]
fn each_wrong_field_of_an_io_connect_is_reported() {
    let target = Target::start();
    let controller = target.connect();
    let good = connect_data(NQN, controller.cntlid());
    let mut hostid = good.hostid;
    hostid[0] ^= 1;
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    for (connect, data, (status, dw0)) in [
        (
            IO,
            ConnectData { hostnqn: named("nqn.2026-01.io.drivebay:thief"), ..good.clone() },
            for_now(in_data(ConnectData::HOSTNQN_OFFSET)),
        ),
        (IO, ConnectData { hostid, ..good.clone() }, for_now(in_data(ConnectData::HOSTID_OFFSET))),
        (Connect { qid: 128, ..IO }, good.clone(), in_command(Connect::QID_OFFSET)),
        (Connect { qid: 0xffff, ..IO }, good.clone(), in_command(Connect::QID_OFFSET)),
        (Connect { sqsize: 0, ..IO }, good.clone(), in_command(Connect::SQSIZE_OFFSET)),
        (Connect { sqsize: 128, ..IO }, good.clone(), in_command(Connect::SQSIZE_OFFSET)),
    ] {
        let completion = raw.connect(connect, &data);
        assert_eq!((completion.status, completion.dw0()), (status, dw0), "{connect:?}");
    }
    assert!(raw.connect(IO, &good).status.is_success());
    // The queue exists now. A second Connect fails, on this and on another connection.
    let twice = raw.connect(IO, &good);
    assert_eq!(twice.status, Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    let mut other = Raw::open(target.address, icreq(NO_DIGESTS));
    let taken = other.connect(IO, &good);
    assert_eq!(taken.status, Status::COMMAND_SEQUENCE_ERROR);
    raw.assert_alive();
}

#[test]
fn an_io_queue_needs_a_controller_that_is_enabled_and_not_shut_down() {
    let target = Target::start();
    let mut admin = Raw::admin_queue(target.address, icreq(NO_DIGESTS));
    let early = Raw::open(target.address, icreq(NO_DIGESTS)).connect(IO, &connect_data(NQN, 1));
    assert_eq!((early.status, early.dw0()), for_now(in_command(Connect::QID_OFFSET)));
    // An admin command before Connect fails, too.
    let keep_alive = Command::new(opcode::admin::KEEP_ALIVE);
    admin.send(&admin.capsule(keep_alive, &[]));
    assert_eq!(admin.completion().status, Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    drop(admin);

    let mut controller = target.connect();
    let cc = controller.property(offset::CC, false).unwrap();
    controller.set_property(offset::CC, u32::try_from(cc).unwrap() | 1 << 14).unwrap();
    let data = connect_data(NQN, controller.cntlid());
    let late = Raw::open(target.address, icreq(NO_DIGESTS)).connect(IO, &data);
    assert_eq!((late.status, late.dw0()), for_now(in_command(Connect::QID_OFFSET)));
}

#[test]
fn a_command_before_connect_is_out_of_sequence_and_connect_may_follow() {
    let target = Target::start();
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let identify = admin::Identify { cns: cns::CONTROLLER, ..admin::Identify::default() };
    let page = SglDescriptor::Transport { length: 4096 };
    for command in [
        Command::new(opcode::nvm::FLUSH).with_nsid(1),
        PropertyGet { wide: false, offset: offset::VS }.to_command(),
        identify.to_command().with_sgl1(page),
        disconnect(),
    ] {
        raw.send(&raw.capsule(command, &[]));
        assert_eq!(raw.completion().status, Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    let completion = raw.connect(ADMIN, &connect_data(NQN, CNTLID_DYNAMIC));
    assert!(completion.status.is_success());
}

#[test]
fn a_second_connect_on_an_admin_queue_is_out_of_sequence() {
    let target = Target::start();
    let mut raw = Raw::admin_queue(target.address, icreq(NO_DIGESTS));
    let data = connect_data(NQN, CNTLID_DYNAMIC);
    assert_eq!(raw.connect(ADMIN, &data).status, Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    assert_eq!(target.controllers().len(), 1);
}

#[test]
fn connect_data_of_another_length_is_refused() {
    let target = Target::start();
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let data = connect_data(NQN, CNTLID_DYNAMIC).encode();
    for len in [4, 512, 1020] {
        let sgl = SglDescriptor::InCapsule { offset: 0, length: u32::try_from(len).unwrap() };
        raw.send(&raw.capsule(ADMIN.to_command().with_sgl1(sgl), &data[..len]));
        assert_eq!(raw.completion().status, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{len}");
    }
    assert!(raw.connect(ADMIN, &connect_data(NQN, CNTLID_DYNAMIC)).status.is_success());
}

#[test]
fn a_host_that_is_not_listed_is_refused_until_it_is_and_ended_when_it_is_no_more() {
    let target = Target::start();
    let host = Host::default().nqn;
    let allow = json!({"nqn": NQN, "allow_any_host": false});
    target.call("nvmf_subsystem_allow_any_host", allow);
    let refused = Controller::connect(target.options()).unwrap_err();
    let Error::Status { status, .. } = refused else { panic!("{refused}") };
    assert_eq!(status, Status::CONNECT_INVALID_HOST, "it may be listed later");
    let reported = format!("host {host} at 127.0.0.1 was refused by subsystem {NQN}: ");
    eventually("the log says who was refused", || target.log().contains(&reported).then_some(()));

    target.call("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": host}));
    let (mut controller, mut queue, namespace) = target.connect_io();
    queue.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    let other = Host { nqn: "nqn.2026-01.io.drivebay:other".into(), ..Host::default() };
    assert!(Controller::connect(Options { host: other, ..target.options() }).is_err());

    target.call("nvmf_subsystem_remove_host", json!({"nqn": NQN, "host": host}));
    assert!(controller.keep_alive().is_err());
    assert!(queue.run(namespace.read(0, 1).unwrap()).is_err());
    assert!(target.controllers().is_empty());
    assert!(Controller::connect(target.options()).is_err());
}

#[test]
fn a_host_has_as_many_queues_as_it_may_and_others_are_not_counted() {
    let target = Target::with(&[], json!({"max_connections_per_host": 2}));
    let controller = target.connect();
    let _queue = controller.io_queue(1, 16).unwrap();
    let refused = Controller::connect(target.options()).unwrap_err();
    let Error::Status { status, .. } = refused else { panic!("{refused}") };
    assert_eq!(status, Status::CONNECT_CONTROLLER_BUSY, "the host may try again");
    let other = Host { nqn: "nqn.2026-01.io.drivebay:other".into(), ..Host::default() };
    Controller::connect(Options { host: other, ..target.options() }).unwrap();
}

#[test]
fn a_disk_whose_blocks_are_larger_than_a_command_is_not_exported() {
    let target = Target::with(&[], json!({"max_io_size": 4096}));
    let disk = json!({"name": "large", "num_blocks": 64, "block_size": 8192});
    target.call("bdev_malloc_create", disk);
    let add = json!({"nqn": NQN, "namespace": {"bdev_name": "large"}});
    let refused = target.refused("nvmf_subsystem_add_ns", add);
    assert!(refused.message.contains("max_io_size of the transports, 4096"), "{refused:?}");
}

#[test]
fn a_discovery_controller_has_no_io_queues() {
    let target = Target::start();
    let at = target.listen(DISCOVERY, Ipv4Addr::LOCALHOST.into());
    let controller = Controller::connect(Options::new(at, DISCOVERY)).unwrap();
    let data = connect_data(DISCOVERY, controller.cntlid());
    let completion = Raw::open(at, icreq(NO_DIGESTS)).connect(IO, &data);
    assert_eq!((completion.status, completion.dw0()), in_command(Connect::QID_OFFSET));
}

#[test]
fn as_many_io_queues_as_the_transport_has_and_no_more() {
    let target = Target::with(&[], json!({"max_io_qpairs_per_ctrlr": 3}));
    let mut controller = target.connect();
    assert_eq!(controller.set_queues(64).unwrap(), 3);
    let namespace = controller.namespace(1).unwrap();
    let mut queues: Vec<_> = (1..=3).map(|qid| controller.io_queue(qid, 16).unwrap()).collect();
    for queue in &mut queues {
        queue.run(namespace.read(0, 8).unwrap()).unwrap().ok().unwrap();
    }
    let error = controller.io_queue(4, 16).unwrap_err();
    assert!(matches!(error, Error::Status { .. }), "{error}");
}

#[test]
fn disconnect_ends_one_io_queue_whose_number_is_free_again() {
    let target = Target::start();
    let (mut controller, mut first, namespace) = target.connect_io();
    let mut second = controller.io_queue(2, 16).unwrap();
    first.run(Request::new("Disconnect", disconnect())).unwrap().ok().unwrap();
    assert!(first.run(namespace.read(0, 1).unwrap()).is_err());
    second.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    let mut again = crate::host::eventually("queue 1 is free", || controller.io_queue(1, 16).ok());
    again.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    controller.keep_alive().unwrap();
}
