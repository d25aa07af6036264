//! Admin commands: identify, features, log pages, abort, keep alive, reset. NVMe Base 2.0, section 5.

use crate::host::eventually;
use crate::target::{NQN, Target};
use drivebay_nvme_driver::spec::admin::{GetFeatures, GetLogPage, Identify, SetFeatures};
use drivebay_nvme_driver::spec::feature::fid;
use drivebay_nvme_driver::spec::identify::{self, NamespaceId, cns, cntrltype, csi};
use drivebay_nvme_driver::spec::log::{ErrorEntry, FirmwareSlots, lid};
use drivebay_nvme_driver::spec::property::{Version, offset};
use drivebay_nvme_driver::spec::{Command, NSID_ALL, Status, opcode};
use drivebay_nvme_driver::{Controller, Data, Error, Host, Options, Request};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

fn status<T>(result: Result<T, Error>) -> Status {
    match result {
        Ok(_) => Status::SUCCESS,
        Err(Error::Status { status, .. }) => status,
        Err(error) => panic!("{error}"),
    }
}

fn admin(controller: &mut Controller, command: Command, data: Data) -> Result<Vec<u8>, Error> {
    controller.admin().run(Request::new("admin", command).with_data(data)).unwrap().ok()
}

#[test]
fn a_controller_tells_who_it_is() {
    let target = Target::start();
    let nqn = "nqn.2026-01.io.drivebay:named";
    let named = json!({"nqn": nqn, "serial_number": "SN 1", "model_number": "Model of the test",
                       "allow_any_host": true, "min_cntlid": 7, "max_cntlid": 8});
    target.call("nvmf_create_subsystem", named);
    let listen = crate::target::listen_address(target.address);
    let params = json!({"nqn": nqn, "listen_address": listen});
    target.call("nvmf_subsystem_add_listener", params);
    let options = Options::new(target.address, nqn);
    let mut first = Controller::connect(options.clone()).unwrap();
    let data = first.data().clone();
    assert_eq!((data.sn.as_str(), data.mn.as_str()), (Some("SN 1"), Some("Model of the test")));
    assert_eq!(data.subnqn.as_str(), Some(nqn));
    assert_eq!((data.cntlid, data.cntrltype), (7, cntrltype::IO));
    assert_eq!((data.ioccsz, data.iorcsz, data.icdoff), (4 + 4096 / 16, 1, 0));
    assert_eq!((data.sqes, data.cqes, data.maxcmd), (0x66, 0x44, 128));
    assert_eq!(first.version().unwrap(), Version::V1_4);
    assert_eq!(first.cap().mqes, 127);
    // Both identifiers are in use. The target tells a third host to try again.
    let second = Controller::connect(options.clone()).unwrap();
    assert_eq!(second.cntlid(), 8);
    let busy = status(Controller::connect(options.clone()));
    assert_eq!(busy, Status::CONNECT_CONTROLLER_BUSY, "without Do Not Retry");
    drop(second);
    eventually("its identifier is free", || Controller::connect(options.clone()).ok());
}

#[test]
fn namespaces_are_listed_and_identified() {
    let target = Target::start();
    let uuid = "8d4e1f5c-0b6a-4e52-9d53-0102030405ff";
    let disk = json!({"name": "u", "num_blocks": 100, "block_size": 4096, "uuid": uuid});
    target.call("bdev_malloc_create", disk);
    let namespace = json!({"bdev_name": "u", "nsid": 9, "eui64": "0011223344556677"});
    target.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace}));
    let mut controller = target.connect();
    assert_eq!(controller.namespaces().unwrap(), [1, 2, 9]);
    let data = controller.identify_namespace(9).unwrap();
    assert_eq!((data.nsze, data.ncap, data.nuse), (100, 100, 100));
    assert_eq!(data.block_size(), Some(4096));
    let mut id = [0; 16];
    let digits: String = uuid.chars().filter(|c| *c != '-').collect();
    for (byte, place) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[place..place + 2], 16).unwrap();
    }
    assert_eq!(data.nguid, id);
    assert_eq!(
        controller.namespace_ids(9).unwrap(),
        [
            NamespaceId::Eui64([0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]),
            NamespaceId::Nguid(id),
            NamespaceId::Uuid(id),
            NamespaceId::Csi(csi::NVM),
        ]
    );
    // Identify of an unused namespace number is all zero. A number that no namespace can have is
    // refused.
    assert_eq!(controller.identify_namespace(5).unwrap().nsze, 0);
    let missing = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    for nsid in [0, 33, NSID_ALL] {
        assert_eq!(status(controller.identify_namespace(nsid)), missing, "{nsid}");
    }
    assert_eq!(status(controller.namespace_ids(5)), missing);
    let after = |nsid| Identify { nsid, cns: cns::ACTIVE_NAMESPACES, ..Identify::default() };
    let page = controller.identify(after(2)).unwrap();
    assert!(identify::parse_namespace_list(&page).eq([9]));
    assert_eq!(status(controller.identify(after(0xffff_fffe))), missing);
    let unknown = Identify { cns: 0x7f, ..Identify::default() };
    assert_eq!(status(controller.identify(unknown)), Status::INVALID_FIELD.with_dnr());
}

#[test]
fn features_are_set_read_back_and_reset() {
    let target = Target::start();
    let mut controller = target.connect();
    for (feature, value) in [
        (fid::ARBITRATION, 3),
        (fid::TEMPERATURE_THRESHOLD, 0x0140),
        (fid::ERROR_RECOVERY, 0x10),
        (fid::WRITE_ATOMICITY, 1),
        (fid::ASYNC_EVENT_CONFIGURATION, 0x0100),
    ] {
        let before = controller.feature(feature).unwrap();
        assert_ne!(before, value, "feature {feature}");
        controller.set_feature(feature, value).unwrap();
        assert_eq!(controller.feature(feature).unwrap(), value, "feature {feature}");
    }
    assert_eq!(controller.set_feature(fid::KEEP_ALIVE_TIMER, 15_000).unwrap(), 0);
    assert_eq!(controller.feature(fid::KEEP_ALIVE_TIMER).unwrap(), 20_000);
    let zero = status(controller.set_feature(fid::KEEP_ALIVE_TIMER, 0));
    assert_eq!(zero, Status::KEEP_ALIVE_TIMEOUT_INVALID.with_dnr());
    let identifier = GetFeatures { fid: fid::HOST_IDENTIFIER, cdw11: 1, ..Default::default() };
    let id = admin(&mut controller, identifier.to_command(), Data::In(16)).unwrap();
    assert_eq!(id, Host::default().id);
    let set = SetFeatures { fid: fid::ARBITRATION, save: true, ..SetFeatures::default() };
    let saved = admin(&mut controller, set.to_command(), Data::None);
    assert_eq!(status(saved), Status::FEATURE_NOT_SAVEABLE.with_dnr());
    for unknown in [0, 0x7f, 0xff] {
        assert_eq!(status(controller.feature(unknown)), Status::INVALID_FIELD.with_dnr());
        assert_eq!(status(controller.set_feature(unknown, 0)), Status::INVALID_FIELD.with_dnr());
    }
}

#[test]
fn a_host_cannot_switch_the_write_cache_off_and_so_goes_on_flushing() {
    let target = Target::start();
    let mut controller = target.connect();
    assert_eq!(controller.data().vwc & identify::vwc::PRESENT, identify::vwc::PRESENT);
    let off = status(controller.set_feature(fid::VOLATILE_WRITE_CACHE, 0));
    assert_eq!(off, Status::FEATURE_NOT_CHANGEABLE.with_dnr());
    assert_eq!(controller.feature(fid::VOLATILE_WRITE_CACHE).unwrap(), 1, "it is still on");
    controller.set_feature(fid::VOLATILE_WRITE_CACHE, 1).unwrap();
}

#[test]
fn the_number_of_queues_is_not_negotiated_any_more_once_there_are_some() {
    let target = Target::start();
    let mut controller = target.connect();
    assert_eq!(controller.set_queues(4).unwrap(), 4);
    let _queue = controller.io_queue(1, 16).unwrap();
    assert_eq!(status(controller.set_queues(4)), Status::COMMAND_SEQUENCE_ERROR.with_dnr());
}

#[test]
fn failed_commands_are_found_in_the_error_log() {
    let target = Target::start();
    let mut controller = target.connect();
    assert_eq!(
        status(admin(&mut controller, Command::new(0xc1), Data::None)),
        Status::INVALID_OPCODE.with_dnr()
    );
    let page = controller.log_page(lid::ERROR, 0, 64).unwrap();
    let entry = ErrorEntry::parse(page.first_chunk().unwrap());
    assert_eq!((entry.error_count, entry.sqid), (1, 0));
    assert_eq!(Status::from_bits(entry.status >> 1).code(), Status::INVALID_OPCODE);
}

#[test]
fn log_pages_are_there_or_said_not_to_be() {
    let target = Target::start();
    let mut controller = target.connect();
    let supported = controller.log_page(lid::SUPPORTED_LOG_PAGES, 0, 1024).unwrap();
    for page in 0..=255_u8 {
        let is_told = supported[usize::from(page) * 4] & 1 == 1;
        let read = controller.log_page(page, 0, 64);
        assert_eq!(read.is_ok(), is_told, "log page {page}");
        if !is_told {
            assert_eq!(status(read), Status::INVALID_LOG_PAGE.with_dnr(), "log page {page}");
        }
    }
    let slots = controller.log_page(lid::FIRMWARE_SLOTS, 0, 512).unwrap();
    let slots = FirmwareSlots::parse(slots.first_chunk().unwrap());
    assert_eq!((slots.afi, slots.revisions[0]), (1, controller.data().fr));
    let effects = controller.log_page(lid::COMMANDS_SUPPORTED, 0, 4096).unwrap();
    let supports = |at: usize| effects[at * 4] & 1 == 1;
    assert!(supports(opcode::admin::IDENTIFY.into()));
    assert!(supports(256 + usize::from(opcode::nvm::WRITE)));
    assert!(!supports(opcode::admin::CREATE_IO_SQ.into()));
}

#[test]
fn a_log_page_longer_than_the_data_and_an_offset_past_the_end_are_refused() {
    let target = Target::start();
    let mut controller = target.connect();
    let log = |numd, offset| GetLogPage {
        lid: lid::HEALTH,
        nsid: NSID_ALL,
        numd,
        offset,
        ..Default::default()
    };
    for (log, len, expected) in [
        (log(127, 0), 512, Status::SUCCESS),
        (log(128, 0), 512, Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
        (log(u32::MAX, 0), 512, Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
        (log(0, 512), 4, Status::SUCCESS),
        (log(0, 516), 4, Status::INVALID_FIELD.with_dnr()),
        (log(0, 2), 4, Status::INVALID_FIELD.with_dnr()),
        (log(0, u64::MAX - 3), 4, Status::INVALID_FIELD.with_dnr()),
    ] {
        let result = admin(&mut controller, log.to_command(), Data::In(len));
        assert_eq!(status(result), expected, "{log:?}");
    }
}

#[test]
fn a_request_for_an_event_is_aborted_and_an_io_is_not() {
    let target = Target::start();
    let mut controller = target.connect();
    let token = controller.request_event().unwrap();
    assert!(!controller.abort(1, 0).unwrap());
    assert!(!controller.abort(0, 0x1234).unwrap());
    assert!(controller.abort(0, token.0).unwrap());
    let aborted = controller.event(Duration::from_secs(20));
    assert_eq!(status(aborted), Status::ABORTED_BY_REQUEST);
}

#[test]
fn a_fifth_request_for_an_event_is_one_too_many() {
    let target = Target::start();
    let mut controller = target.connect();
    assert_eq!(controller.data().aerl, 3);
    for _ in 0..5 {
        controller.request_event().unwrap();
    }
    let fifth = controller.event(Duration::from_secs(20));
    assert_eq!(status(fifth), Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.with_dnr());
}

#[test]
fn a_host_that_is_silent_too_long_loses_its_controller_and_others_do_not() {
    let target = Target::with(&[], json!({"kas": 1, "min_kato": 100}));
    let (mut other, mut queue, namespace) = target.connect_io();
    let options = Options { keep_alive_ms: 700, ..target.options() };
    let (mut controller, mut its_queue, _) = target.connect_io_with(options).unwrap();
    assert_eq!(controller.data().kas, 1);
    assert_eq!(controller.feature(fid::KEEP_ALIVE_TIMER).unwrap(), 700);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        controller.keep_alive().unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(target.controllers().len(), 2);
    // Without TBKAS, I/O is no sign of life: the host must send admin commands.
    its_queue.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    let begun = Instant::now();
    eventually("the silent controller has ended", || {
        (target.controllers().len() == 1).then_some(())
    });
    assert!(begun.elapsed() > Duration::from_millis(400));
    assert!(controller.keep_alive().is_err());
    assert!(its_queue.run(namespace.read(0, 1).unwrap()).is_err());
    other.keep_alive().unwrap();
    queue.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
    assert!(target.log().contains("keep alive timeout"));
}

#[test]
fn a_reset_ends_the_io_queues_and_the_controller_serves_again() {
    let target = Target::start();
    let (mut controller, mut queue, namespace) = target.connect_io();
    controller.set_feature(fid::ARBITRATION, 3).unwrap();
    let cc = u32::try_from(controller.property(offset::CC, false).unwrap()).unwrap();
    controller.set_property(offset::CC, cc & !1).unwrap();
    assert!(!controller.csts().unwrap().rdy);
    assert!(queue.run(namespace.read(0, 1).unwrap()).is_err());
    controller.set_property(offset::CC, cc).unwrap();
    assert!(controller.csts().unwrap().rdy);
    assert_eq!(controller.feature(fid::ARBITRATION).unwrap(), 0);
    let mut again = eventually("queue 1 is free", || controller.io_queue(1, 16).ok());
    again.run(namespace.read(0, 1).unwrap()).unwrap().ok().unwrap();
}

#[test]
fn the_end_of_the_admin_queue_ends_the_io_queues() {
    let target = Target::start();
    let (controller, mut queue, namespace) = target.connect_io();
    drop(controller);
    eventually("the I/O queue ends", || queue.run(namespace.read(0, 1).unwrap()).err());
    assert!(target.controllers().is_empty());
}
