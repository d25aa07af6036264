//! Tests of the whole plugin, between a fabric without a network and a disk that can hold its I/O.

mod ana;
mod commands;
mod disk;
mod fabric;
mod reservations;

use drivebay_sdk::bdev::{Op, Range};
use drivebay_sdk::nvmf::transport;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_nvme::admin::Identify;
use drivebay_spec_nvme::fabrics::{
    self, CNTLID_DYNAMIC, Connect, ConnectData, ConnectResult, PropertySet,
};
use drivebay_spec_nvme::nvm::{BlockCommand, CopyCommand, CopyRange, DatasetManagement, DsmRange};
use drivebay_spec_nvme::opcode::{admin, nvm};
use drivebay_spec_nvme::property::offset;
use drivebay_spec_nvme::text::NulText;
use drivebay_spec_nvme::{Command, Completion, Status};
use fabric::Wire;
use serde_json::{Value, json};

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
const HOST: &str = "nqn.2016-06.io.spdk:host1";
/// A host whose identifier is zero.
const ANONYMOUS: &str = "nqn.2016-06.io.spdk:anonymous";

/// A host that serves [`NQN`] with namespace 1.
struct Target {
    host: FakeHost,
}

impl Target {
    fn start() -> Self {
        let target = Self { host: FakeHost::load(&crate::bay_door::bay_plugin_v1) };
        transport::register::<fabric::Fake>(target.host.app()).unwrap();
        disk::make("disk");
        target.call("nvmf_create_transport", json!({"trtype": "fake"}));
        target.call("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": true}));
        let nsid = target.add_ns("disk");
        assert_eq!(nsid, 1);
        let address = json!({"trtype": "fake", "traddr": "127.0.0.1", "trsvcid": "1"});
        target.call("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": address}));
        target
    }

    fn call(&self, method: &str, params: Value) -> Value {
        self.host.call(method, &params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn add_ns(&self, bdev: &str) -> Value {
        self.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": bdev}}))
    }

    fn run(&self) {
        for _ in 0..8 {
            self.host.run();
        }
    }

    /// Waits for the next response.
    fn response(&self, wire: &Wire) -> (Completion, Vec<u8>) {
        self.host.wait(|| wire.ends().received.pop())
    }

    fn status(&self, wire: &Wire) -> Status {
        self.response(wire).0.status
    }

    /// Connects a queue.
    fn connect(&self, qid: u16, cntlid: u16) -> (Wire, Completion) {
        let wire = self.begin_connect(HOST, qid, cntlid);
        let (completion, _) = self.response(&wire);
        (wire, completion)
    }

    /// Sends the Connect of a host and runs the target.
    fn begin_connect(&self, host: &str, qid: u16, cntlid: u16) -> Wire {
        self.begin_connect_at("1", host, qid, cntlid)
    }

    fn begin_connect_at(&self, port: &str, host: &str, qid: u16, cntlid: u16) -> Wire {
        let wire = fabric::connect(port);
        let connect = Connect { qid, sqsize: 3, kato_ms: 10_000, ..Connect::default() };
        let data = ConnectData {
            hostid: match host {
                HOST => [7; 16],
                ANONYMOUS => [0; 16],
                _ => [8; 16],
            },
            cntlid,
            subnqn: NulText::new(NQN).unwrap(),
            hostnqn: NulText::new(host).unwrap(),
        };
        wire.write(&connect.to_command().with_cid(9), &data.encode());
        self.run();
        wire
    }

    /// Connects and enables a controller. Returns its admin queue and one I/O queue.
    fn controller(&self) -> (Wire, Wire) {
        self.controller_of(HOST)
    }

    fn controller_of(&self, host: &str) -> (Wire, Wire) {
        let admin = self.begin_connect(host, 0, CNTLID_DYNAMIC);
        let (connected, _) = self.response(&admin);
        let cntlid = ConnectResult::from_dw0(connected.dw0()).cntlid;
        let enable = PropertySet { wide: false, offset: offset::CC, value: 0x0046_0001 };
        admin.command(&enable.to_command());
        assert_eq!(self.status(&admin), Status::SUCCESS);
        let io = self.begin_connect(host, 1, cntlid);
        assert_eq!(self.status(&io), Status::SUCCESS);
        (admin, io)
    }
}

fn blocks(slba: u64, nlb: u16) -> BlockCommand {
    BlockCommand { nsid: 1, slba, nlb, ..BlockCommand::default() }
}

fn copy_of(sdlba: u64, ranges: &[(u64, u16)]) -> (Command, Vec<u8>) {
    let nr = u8::try_from(ranges.len() - 1).unwrap();
    let command = CopyCommand { nsid: 1, sdlba, nr, ..CopyCommand::default() };
    let range = |(slba, nlb): &(u64, u16)| CopyRange { slba: *slba, nlb: *nlb }.encode();
    (command.to_command(), ranges.iter().flat_map(range).collect())
}

#[test]
fn a_namespace_is_removed_after_its_io_has_ended() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    disk::hold(true);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    target.run();
    let app = crate::app::app().unwrap();
    let removing = std::rc::Rc::clone(&app);
    let (done, is_done) = std::sync::mpsc::channel();
    app.tasks.spawn(async move {
        done.send(crate::ops::remove_namespace(&removing, NQN, 1).await).unwrap();
    });
    target.run();
    assert!(is_done.try_recv().is_err(), "I/O is in flight");
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    disk::let_go();
    assert_eq!(target.status(&io), Status::SUCCESS, "what was in flight ends as it would");
    target.run();
    assert_eq!(is_done.try_recv(), Ok(Ok(())));
    disk::hold(false);
    assert_eq!(target.add_ns("disk"), 1, "its bdev was closed");
}

#[test]
fn a_long_command_ends_with_its_namespace_and_leaves_the_next_disk_of_that_number_alone() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    disk::make_empty("next");
    disk::hold(true);
    let range = |slba| DsmRange { cattr: 0, nlb: 8, slba }.encode();
    let dsm = DatasetManagement { nsid: 1, nr: 1, deallocate: true, ..Default::default() };
    io.write(&dsm.to_command(), &[range(0), range(16)].concat());
    target.run();
    let app = crate::app::app().unwrap();
    let changing = std::rc::Rc::clone(&app);
    let next = crate::ops::NewNamespace { nsid: 1, bdev_name: "next".into(), ..Default::default() };
    app.tasks.spawn(async move {
        crate::ops::remove_namespace(&changing, NQN, 1).await.unwrap();
        crate::ops::add_namespace(&changing, NQN, next).await.unwrap();
    });
    target.run();
    disk::let_go();
    disk::hold(false);
    assert_eq!(target.status(&io), Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    target.run();
    assert_eq!(disk::ops(), [Op::Unmap(Range::new(0, 8))]);
    let namespaces = &target.call("nvmf_get_subsystems", json!({"nqn": NQN}))[0]["namespaces"];
    assert_eq!(namespaces[0]["bdev_name"], "next");
}

#[test]
fn an_event_tells_of_a_namespace() {
    let target = Target::start();
    let (admin, _io) = target.controller();
    admin.command(&Command::new(admin::ASYNC_EVENT_REQUEST).with_cid(4));
    target.run();
    assert!(admin.ends().received.is_empty());
    target.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
    let (completion, _) = target.response(&admin);
    assert_eq!((completion.cid, completion.dw0()), (4, 0x0004_0002));
}

#[test]
fn a_host_that_hangs_up_leaves_nothing_behind() {
    let target = Target::start();
    let (admin, io) = target.controller();
    admin.command(&Command::new(admin::ASYNC_EVENT_REQUEST));
    disk::hold(true);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    target.run();
    admin.hang_up();
    target.run();
    assert!(admin.ends().is_free, "the request that waited was given back");
    assert!(io.ends().is_closed, "I/O queues end with their controller");
    assert!(!io.ends().is_free, "its read is in the bdev");
    disk::let_go();
    disk::hold(false);
    target.run();
    assert!(io.ends().is_free);
    let controllers = target.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
    assert_eq!(controllers, json!([]));
    assert_eq!(target.call("nvmf_subsystem_get_qpairs", json!({"nqn": NQN})), json!([]));
}

#[test]
fn a_host_that_comes_back_waits_until_what_it_left_behind_cannot_execute_any_more() {
    let target = Target::start();
    let (admin, io) = target.controller();
    disk::hold(true);
    io.write(&blocks(0, 0).to_command(nvm::WRITE), &[1; 512]);
    target.run();
    admin.hang_up();
    io.hang_up();
    let again = target.begin_connect(HOST, 0, CNTLID_DYNAMIC);
    assert!(again.ends().received.is_empty(), "its write is in the bdev");
    let other = target.begin_connect("nqn.2016-06.io.spdk:other", 0, CNTLID_DYNAMIC);
    assert_eq!(target.status(&other), Status::SUCCESS, "another host has nothing to wait for");
    disk::let_go();
    disk::hold(false);
    assert_eq!(target.status(&again), Status::SUCCESS);
}

#[test]
fn a_host_whose_requests_do_not_end_is_told_to_retry_and_never_admitted() {
    let target = Target::start();
    let (admin, io) = target.controller();
    disk::hold(true);
    io.write(&blocks(0, 0).to_command(nvm::WRITE), &[1; 512]);
    target.run();
    admin.hang_up();
    io.hang_up();
    let again = target.begin_connect(HOST, 0, CNTLID_DYNAMIC);
    target.host.set_now_ns(14_000_000_000);
    target.run();
    assert!(again.ends().received.is_empty());
    target.host.set_now_ns(17_000_000_000);
    target.run();
    assert_eq!(target.status(&again), Status::CONNECT_CONTROLLER_BUSY, "without Do Not Retry");
    disk::let_go();
    disk::hold(false);
    target.run();
    assert!(again.ends().received.is_empty(), "it was answered once");
    assert_eq!(target.connect(0, CNTLID_DYNAMIC).1.status, Status::SUCCESS);
}

#[test]
fn after_a_reset_an_io_queue_comes_back_when_the_last_ones_requests_have_ended() {
    let target = Target::start();
    let (admin, io) = target.controller();
    disk::hold(true);
    io.write(&blocks(0, 0).to_command(nvm::WRITE), &[1; 512]);
    target.run();
    for value in [0x0046_0000, 0x0046_0001] {
        let set = PropertySet { wide: false, offset: offset::CC, value };
        admin.command(&set.to_command());
        assert_eq!(target.status(&admin), Status::SUCCESS);
    }
    let again = target.begin_connect(HOST, 1, 1);
    assert!(again.ends().received.is_empty(), "a write of the queue before is in the bdev");
    disk::let_go();
    disk::hold(false);
    assert_eq!(target.status(&again), Status::SUCCESS);
}

#[test]
fn a_host_is_not_ended_for_silence_when_its_keep_alive_has_arrived() {
    let target = Target::start();
    let (admin, _io) = target.controller();
    // The process was stopped for a minute, and the command has waited in the socket.
    admin.command(&Command::new(admin::KEEP_ALIVE));
    target.host.set_now_ns(60_000_000_000);
    assert_eq!(target.status(&admin), Status::SUCCESS);
    target.run();
    assert!(!admin.ends().is_closed);
    target.host.set_now_ns(75_000_000_000);
    target.run();
    assert!(admin.ends().is_closed, "it says nothing any more");
}

#[test]
fn a_namespace_needs_an_identity_of_its_own() {
    let target = Target::start();
    disk::make_empty("other");
    let uuid =
        target.call("nvmf_get_subsystems", json!({"nqn": NQN}))[0]["namespaces"][0]["uuid"].clone();
    let nguid = uuid.as_str().unwrap().replace('-', "");
    for identity in
        [json!({"bdev_name": "other", "uuid": uuid}), json!({"bdev_name": "other", "nguid": nguid})]
    {
        let params = json!({"nqn": NQN, "namespace": identity});
        let error = target.host.call("nvmf_subsystem_add_ns", &params).unwrap_err();
        assert!(error.message.contains("nsid 1 (disk) has it"), "{error}");
    }
    let zeroes = json!({"bdev_name": "other", "uuid": "00000000-0000-0000-0000-000000000000",
        "nguid": "0".repeat(32), "eui64": "0".repeat(16)});
    target.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": zeroes}));
    let namespaces = &target.call("nvmf_get_subsystems", json!({"nqn": NQN}))[0]["namespaces"];
    assert_ne!(namespaces[1]["uuid"], namespaces[0]["uuid"]);
    assert!(namespaces[1].get("eui64").is_none(), "all zeroes are none");
}

#[test]
fn the_discovery_subsystem_can_be_deleted_and_made_again() {
    let target = Target::start();
    let discovery = json!({"nqn": "nqn.2014-08.org.nvmexpress.discovery"});
    target.call("nvmf_delete_subsystem", discovery.clone());
    assert!(target.host.call("nvmf_subsystem_get_listeners", &discovery).is_err());
    target.call("nvmf_create_subsystem", discovery.clone());
    target.call("nvmf_subsystem_get_listeners", discovery);
    assert_eq!(target.call("nvmf_get_targets", json!({})), json!(["nvmf_tgt"]));
}

#[test]
fn a_deleted_subsystem_ends_its_connections_first() {
    let target = Target::start();
    let (admin, io) = target.controller();
    target.call("nvmf_delete_subsystem", json!({"nqn": NQN}));
    assert!(admin.ends().is_closed && io.ends().is_closed);
    let error = target.host.call("nvmf_subsystem_get_qpairs", &json!({"nqn": NQN})).unwrap_err();
    assert_eq!(error.code, -32602);
}

#[test]
fn a_removed_host_is_disconnected_and_may_not_come_back() {
    let target = Target::start();
    target.call("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST}));
    target.call("nvmf_subsystem_allow_any_host", json!({"nqn": NQN, "allow_any_host": false}));
    let (admin, _io) = target.controller();
    target.call("nvmf_subsystem_remove_host", json!({"nqn": NQN, "host": HOST}));
    assert!(admin.ends().is_closed);
    let (_, refused) = target.connect(0, CNTLID_DYNAMIC);
    assert_eq!(refused.status, Status::CONNECT_INVALID_HOST);
}

#[test]
fn a_refused_connection_may_try_again() {
    let target = Target::start();
    let (wire, refused) = target.connect(1, 77);
    assert_eq!(refused.status, Status::CONNECT_INVALID_PARAMETERS);
    wire.command(&Command::new(admin::KEEP_ALIVE));
    assert_eq!(target.status(&wire), Status::COMMAND_SEQUENCE_ERROR.with_dnr());
}

#[test]
fn a_disconnect_ends_its_queue_alone() {
    let target = Target::start();
    let (admin, io) = target.controller();
    io.command(&fabrics::disconnect());
    assert_eq!(target.status(&io), Status::SUCCESS);
    target.run();
    assert!(io.ends().is_free && !admin.ends().is_closed);
    let controllers = target.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
    assert_eq!(controllers[0]["num_io_qpairs"], 0);
}

#[test]
fn a_transport_that_nobody_has_is_refused_by_name() {
    let target = Target::start();
    let error = target.host.call("nvmf_create_transport", &json!({"trtype": "rdma"})).unwrap_err();
    assert_eq!(error.code, -32602);
    assert!(error.message.contains("nvmf.transport/RDMA"), "{error}");
}
