//! Tests of the whole plugin, between a fabric without a network and a disk that can hold its I/O.

mod disk;
mod fabric;

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

#[test]
fn a_host_connects_identifies_and_reads() {
    let target = Target::start();
    let (admin, io) = target.controller();
    assert_eq!(io.ends().connected, Some((1, 4, true)));
    admin.read(&Identify { cns: 1, ..Identify::default() }.to_command().with_cid(5), 4096);
    let (completion, data) = target.response(&admin);
    assert_eq!((completion.cid, completion.status, data.len()), (5, Status::SUCCESS, 4096));
    io.read(&blocks(8, 1).to_command(nvm::READ).with_cid(6), 1024);
    let (completion, data) = target.response(&io);
    assert_eq!((completion.cid, completion.status), (6, Status::SUCCESS));
    assert_eq!(data, [7; 1024]);
    assert_eq!(disk::ops(), [Op::Read(Range::new(8, 2))]);
}

#[test]
fn what_a_disk_leaves_in_the_memory_of_a_read_is_not_sent() {
    let target = Target::start();
    disk::make_empty("empty");
    assert_eq!(target.add_ns("empty"), 2);
    let (_admin, io) = target.controller();
    let read = BlockCommand { nsid: 2, ..blocks(8, 1) }.to_command(nvm::READ);
    io.read_over(&read, &[9; 1024]);
    assert_eq!(target.response(&io).1, [0; 1024]);
    // The same memory is sent as it is when the disk fills it.
    io.read_over(&blocks(8, 1).to_command(nvm::READ), &[9; 1024]);
    assert_eq!(target.response(&io).1, [7; 1024]);
}

#[test]
fn the_head_of_a_queue_goes_round_with_its_size() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let heads: Vec<u16> = (0..5)
        .map(|_| {
            io.command(&Command::new(nvm::FLUSH).with_nsid(1));
            target.response(&io).0.sqhd
        })
        .collect();
    // Connect was the first command.
    assert_eq!(heads, [2, 3, 0, 1, 2]);
}

#[test]
fn before_connect_everything_else_is_out_of_sequence() {
    let target = Target::start();
    let wire = fabric::connect("1");
    let early = Status::COMMAND_SEQUENCE_ERROR.with_dnr();
    for command in [Command::new(admin::KEEP_ALIVE), fabrics::disconnect()] {
        wire.command(&command);
        assert_eq!(target.status(&wire), early);
    }
}

#[test]
fn ranges_are_unmapped_one_after_the_other() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let range = |slba, nlb| DsmRange { cattr: 0, nlb, slba }.encode();
    let data = [range(0, 8), range(9, 0), range(56, 8)].concat();
    let dsm = DatasetManagement { nsid: 1, nr: 2, deallocate: true, ..Default::default() };
    io.write(&dsm.to_command(), &data);
    assert_eq!(target.status(&io), Status::SUCCESS);
    assert_eq!(disk::ops(), [Op::Unmap(Range::new(0, 8)), Op::Unmap(Range::new(56, 8))]);
}

fn copy_of(sdlba: u64, ranges: &[(u64, u16)]) -> (Command, Vec<u8>) {
    let nr = u8::try_from(ranges.len() - 1).unwrap();
    let command = CopyCommand { nsid: 1, sdlba, nr, ..CopyCommand::default() };
    let range = |(slba, nlb): &(u64, u16)| CopyRange { slba: *slba, nlb: *nlb }.encode();
    (command.to_command(), ranges.iter().flat_map(range).collect())
}

#[test]
fn the_ranges_of_a_copy_are_read_and_written_one_after_the_other() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let (command, data) = copy_of(40, &[(0, 7), (20, 0)]);
    io.write(&command, &data);
    assert_eq!(target.status(&io), Status::SUCCESS);
    let expected = [
        Op::Read(Range::new(0, 8)),
        Op::Write(Range::new(40, 8)),
        Op::Read(Range::new(20, 1)),
        Op::Write(Range::new(48, 1)),
    ];
    assert_eq!(disk::ops(), expected);
    for (wrong, status) in [
        (copy_of(60, &[(0, 7)]), Status::LBA_OUT_OF_RANGE),
        (copy_of(0, &[(0, 7), (60, 7)]), Status::LBA_OUT_OF_RANGE),
        (copy_of(0, &[(0, 300)]), Status::COMMAND_SIZE_LIMIT_EXCEEDED),
    ] {
        let (command, data) = wrong;
        io.write(&command, &data);
        assert_eq!(target.status(&io), status.with_dnr());
    }
    assert_eq!(disk::ops(), []);
}

#[test]
fn copies_wait_for_each_other_and_end_with_their_namespace() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    disk::hold(true);
    for (cid, (command, data)) in [(1, copy_of(40, &[(0, 0), (1, 0)])), (2, copy_of(50, &[(2, 0)]))]
    {
        io.write(&command.with_cid(cid), &data);
    }
    target.run();
    assert_eq!(disk::ops(), [Op::Read(Range::new(0, 1))]);
    let app = crate::app::app().unwrap();
    let removing = std::rc::Rc::clone(&app);
    app.tasks.spawn(async move { crate::ops::remove_namespace(&removing, NQN, 1).await.unwrap() });
    target.run();
    disk::hold(false);
    disk::let_go();
    target.run();
    let ends: Vec<_> = io.ends().received.iter().map(|(c, _)| (c.cid, c.status)).collect();
    let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    assert_eq!(ends, [(2, gone), (1, gone)], "the one that waits ends at once");
    assert_eq!(disk::ops(), [Op::Write(Range::new(40, 1))], "the range that had begun");
}

#[test]
fn a_copy_that_waits_ends_with_its_queue_and_does_not_wait_for_the_disk() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let (other, connected) = target.connect(2, 1);
    assert_eq!(connected.status, Status::SUCCESS);
    disk::hold(true);
    let (command, data) = copy_of(40, &[(0, 0)]);
    io.write(&command, &data);
    target.run();
    other.write(&command, &data);
    target.run();
    other.hang_up();
    target.run();
    assert!(other.ends().is_free, "the Copy of the first queue is in the bdev");
    disk::hold(false);
    disk::let_go();
    assert_eq!(target.status(&io), Status::SUCCESS);
}

/// Reserves namespace 1 for a host that is not connected, as a Preempt of that host would.
fn preempt() {
    let other = [8; 16];
    let mut table = drivebay_reservation::Table::default();
    table.register(vec![other], 1).unwrap();
    table.reserve(&other, drivebay_reservation::Kind::WriteExclusive).unwrap();
    let table = std::sync::Arc::new(table);
    for group in crate::app::app().unwrap().groups() {
        let table = std::sync::Arc::clone(&table);
        group.send(move |group| group.state().set_reservation(NQN, 1, Some(table)));
    }
}

#[test]
fn a_command_of_several_steps_goes_no_further_once_its_host_is_preempted() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    disk::hold(true);
    let (copy, sources) = copy_of(40, &[(0, 0), (1, 0)]);
    io.write(&copy.with_cid(1), &sources);
    let range = |slba| DsmRange { cattr: 0, nlb: 8, slba }.encode();
    let dsm = DatasetManagement { nsid: 1, nr: 1, deallocate: true, ..Default::default() };
    io.write(&dsm.to_command().with_cid(2), &[range(0), range(16)].concat());
    target.run();
    preempt();
    target.run();
    disk::hold(false);
    disk::let_go();
    target.run();
    let mut ends: Vec<_> = io.ends().received.iter().map(|(c, _)| (c.cid, c.status)).collect();
    ends.sort_by_key(|(cid, _)| *cid);
    let conflict = Status::RESERVATION_CONFLICT.with_dnr();
    assert_eq!(ends, [(1, conflict), (2, conflict)]);
    let ops = disk::ops();
    assert!(ops.contains(&Op::Read(Range::new(0, 1))), "{ops:?}");
    assert!(ops.contains(&Op::Unmap(Range::new(0, 8))), "{ops:?}");
    assert_eq!(ops.len(), 2, "nothing is written or unmapped afterwards: {ops:?}");
}

#[test]
fn a_host_without_an_identifier_cannot_register() {
    let target = Target::start();
    let (_admin, io) = target.controller_of(ANONYMOUS);
    io.write(&Command::new(nvm::RESERVATION_REGISTER).with_nsid(1), &[1; 16]);
    assert_eq!(target.status(&io), Status::OPERATION_DENIED.with_dnr());
}

#[test]
fn two_namespaces_do_not_share_a_file_for_reservations() {
    let target = Target::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kept");
    for (bdev, is_first) in [("one", true), ("two", false)] {
        disk::make_empty(bdev);
        // The disks of these tests have the same UUID.
        let uuid = format!("00000000-0000-0000-0000-00000000000{}", if is_first { 1 } else { 2 });
        let namespace = json!({"bdev_name": bdev, "uuid": uuid, "ptpl_file": file});
        let params = json!({"nqn": NQN, "namespace": namespace});
        match target.host.call("nvmf_subsystem_add_ns", &params) {
            Ok(_) => assert!(is_first),
            Err(error) => {
                assert!(!is_first && error.message.contains("nsid 2"), "{error}");
            }
        }
    }
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

/// A target that reports ANA and listens at ports 1 and 2. Namespace 1 is in group 1.
fn target_with_ana() -> Target {
    let target = Target::start();
    target.call("nvmf_delete_subsystem", json!({"nqn": NQN}));
    let subsystem = json!({"nqn": NQN, "allow_any_host": true, "ana_reporting": true});
    target.call("nvmf_create_subsystem", subsystem);
    assert_eq!(target.add_ns("disk"), 1);
    for port in ["1", "2"] {
        target.call(
            "nvmf_subsystem_add_listener",
            json!({"nqn": NQN, "listen_address": fake_at(port)}),
        );
    }
    target
}

fn fake_at(port: &str) -> Value {
    json!({"trtype": "fake", "traddr": "127.0.0.1", "trsvcid": port})
}

fn ana_state(port: &str, state: &str, group: u32) -> Value {
    json!({"nqn": NQN, "listen_address": fake_at(port), "ana_state": state, "anagrpid": group})
}

#[test]
fn io_by_a_listener_that_does_not_serve_the_group_ends_with_the_path_status_and_reaches_no_disk() {
    let target = target_with_ana();
    let (_admin, io) = target.controller();
    for (state, status) in [
        ("inaccessible", Status::ANA_INACCESSIBLE),
        ("persistent_loss", Status::ANA_PERSISTENT_LOSS),
        ("change", Status::ANA_TRANSITION),
    ] {
        target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", state, 1));
        io.read(&blocks(0, 0).to_command(nvm::READ), 512);
        let (completion, data) = target.response(&io);
        assert_eq!((completion.status, data.len()), (status, 0), "{state}");
        io.write(&blocks(0, 0).to_command(nvm::WRITE), &[1; 512]);
        assert_eq!(target.status(&io), status, "{state}");
        io.command(&Command::new(nvm::FLUSH).with_nsid(1));
        assert_eq!(target.status(&io), status, "{state}");
        let (copy, sources) = copy_of(40, &[(0, 0)]);
        io.write(&copy, &sources);
        assert_eq!(target.status(&io), status, "{state}");
    }
    assert_eq!(disk::ops(), []);
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "non_optimized", 0));
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::SUCCESS);
}

#[test]
fn other_listeners_and_other_groups_are_served_as_before() {
    let target = target_with_ana();
    let (_admin, io) = target.controller();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 0));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 7));
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::SUCCESS);
    let group = json!({"nqn": NQN, "nsid": 1, "anagrpid": 7});
    target.call("nvmf_subsystem_set_ns_ana_group", group);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::ANA_INACCESSIBLE, "the namespace has moved");
}

#[test]
fn a_namespace_that_is_added_to_a_refused_group_is_refused_from_the_start() {
    let target = target_with_ana();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 0));
    target.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
    let (_admin, io) = target.controller();
    assert_eq!(target.add_ns("disk"), 1);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::ANA_INACCESSIBLE);
}

#[test]
fn the_hosts_of_a_listener_hear_of_its_change_and_those_of_another_do_not() {
    let target = target_with_ana();
    let (admin, _io) = target.controller();
    admin.command(&Command::new(admin::ASYNC_EVENT_REQUEST).with_cid(4));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 1));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "optimized", 1));
    target.run();
    assert!(admin.ends().received.is_empty(), "nothing has changed here");
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 1));
    let (completion, _) = target.response(&admin);
    assert_eq!((completion.cid, completion.dw0()), (4, 0x000c_0302));
}

#[test]
fn an_io_queue_comes_by_the_listener_of_its_controller() {
    let target = target_with_ana();
    let (_admin, _io) = target.controller();
    let elsewhere = target.begin_connect_at("2", HOST, 2, 1);
    let refused = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    assert_eq!(target.status(&elsewhere), refused);
    assert_eq!(target.connect(2, 1).1.status, Status::SUCCESS);
}

#[test]
fn states_are_listed_and_refused_where_ana_is_not_reported_or_the_group_is_too_high() {
    let target = target_with_ana();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 2));
    let listeners = target.call("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    let states = |listener: usize| {
        let states = listeners[listener]["ana_states"].as_array().unwrap().clone();
        assert_eq!((states.len(), &states[1]["ana_group"]), (32, &json!(2)));
        [states[0]["ana_state"].clone(), states[1]["ana_state"].clone()]
    };
    assert_eq!(states(0), ["optimized", "optimized"]);
    assert_eq!(states(1), ["optimized", "inaccessible"]);
    let set = "nvmf_subsystem_listener_set_ana_state";
    let error = target.host.call(set, &ana_state("2", "optimized", 33)).unwrap_err();
    assert!(error.message.contains("1 to 32"), "{error}");
    let error = target.host.call(set, &ana_state("3", "optimized", 1)).unwrap_err();
    assert!(error.message.contains("does not listen"), "{error}");
    let plain = "nqn.2016-06.io.spdk:plain";
    target.call("nvmf_create_subsystem", json!({"nqn": plain}));
    let mut listener = ana_state("3", "optimized", 1);
    listener["nqn"] = json!(plain);
    let address = json!({"nqn": plain, "listen_address": fake_at("3")});
    target.call("nvmf_subsystem_add_listener", address);
    let error = target.host.call(set, &listener).unwrap_err();
    assert!(error.message.contains("ana_reporting"), "{error}");
    let listeners = target.call("nvmf_subsystem_get_listeners", json!({"nqn": plain}));
    assert!(listeners[0].get("ana_states").is_none());
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
