//! The initiator against the small target of [`crate::peer`].

use crate::peer::{BLOCK_SIZE, Behaviour, NUM_BLOCKS, SUBNQN, start};
use crate::{Completed, Controller, Error, Namespace, Options, Queue, RawConnection};
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::identify::NamespaceId;
use drivebay_spec_nvme::property::Version;
use drivebay_spec_nvme::{Status, nqn};
use drivebay_spec_nvme_tcp::{Alignment, Digests, Fes, IcReq, ProtocolError};
use std::time::Duration;

const BOTH: Digests = Digests { header: true, data: true };

fn connect(behaviour: Behaviour) -> (Controller, Namespace, Queue) {
    connect_with(behaviour, |_| {})
}

fn connect_with(
    behaviour: Behaviour,
    change: impl FnOnce(&mut Options),
) -> (Controller, Namespace, Queue) {
    let mut options = Options::new(start(behaviour), SUBNQN);
    change(&mut options);
    let mut controller = Controller::connect(options).unwrap();
    let namespace = controller.namespace(1).unwrap();
    let queue = controller.io_queue(1, 65).unwrap();
    (controller, namespace, queue)
}

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK_SIZE).map(|i| (i / 7).to_le_bytes()[0] ^ seed).collect()
}

fn status(completed: Result<Completed, Error>) -> Status {
    completed.unwrap().completion.status.code()
}

/// Writes blocks with data in the capsule and by R2T, and reads them back.
fn write_and_read(namespace: &Namespace, queue: &mut Queue) {
    for (slba, blocks) in [(0, 1), (8, 8), (100, 9), (200, 256)] {
        let data = pattern(blocks, 3);
        queue.run(namespace.write(slba, data.clone()).unwrap()).unwrap().ok().unwrap();
        let blocks = u32::try_from(blocks).unwrap();
        let read = queue.run(namespace.read(slba, blocks).unwrap()).unwrap().ok().unwrap();
        assert!(read == data, "{blocks} blocks at {slba} differ");
    }
}

#[test]
fn a_controller_is_enabled_identified_and_shut_down() {
    let (mut controller, namespace, queue) = connect(Behaviour::default());
    assert_eq!(controller.cntlid(), 7);
    assert_eq!(controller.cap().mqes, 127);
    assert_eq!(controller.version().unwrap(), Version::V2_0);
    assert_eq!(controller.data().sn.as_str(), Some("PEER"));
    assert_eq!(controller.namespaces().unwrap(), [1]);
    assert_eq!(controller.namespace_ids(1).unwrap(), [NamespaceId::Uuid([5; 16])]);
    assert_eq!(controller.set_queues(16).unwrap(), 4);
    assert_eq!((namespace.block_size, namespace.num_blocks), (512, 4096));
    assert!(!controller.abort(1, 3).unwrap());
    drop(queue);
    controller.shutdown().unwrap();
}

#[test]
fn what_is_written_is_read_back() {
    let (_controller, namespace, mut queue) = connect(Behaviour::default());
    write_and_read(&namespace, &mut queue);
}

#[test]
fn digests_and_alignment_change_nothing_for_the_caller() {
    let behaviour = Behaviour { digests: BOTH, cpda: 15, ..Behaviour::default() };
    let (_controller, namespace, mut queue) = connect_with(behaviour, |options| {
        options.digests = BOTH;
        options.hpda = Alignment::from_bits(31).unwrap();
    });
    assert_eq!(queue.agreed().digests, BOTH);
    write_and_read(&namespace, &mut queue);
}

#[test]
fn each_digest_works_alone_and_only_where_both_ends_want_it() {
    for digests in [Digests { header: true, data: false }, Digests { header: false, data: true }] {
        let behaviour = Behaviour { digests, ..Behaviour::default() };
        let (_controller, namespace, mut queue) =
            connect_with(behaviour, |options| options.digests = BOTH);
        assert_eq!(queue.agreed().digests, digests);
        write_and_read(&namespace, &mut queue);
    }
    let (_controller, _, queue) = connect(Behaviour { digests: BOTH, ..Behaviour::default() });
    assert_eq!(queue.agreed().digests, Digests::default());
}

#[test]
fn without_success_flag_and_in_capsule_data_it_works_too() {
    let behaviour = Behaviour { success_flag: false, in_capsule_len: 0, ..Behaviour::default() };
    let (_controller, namespace, mut queue) = connect(behaviour);
    write_and_read(&namespace, &mut queue);
}

#[test]
fn a_full_queue_is_reaped_in_any_order() {
    let behaviour = Behaviour { hold_reads: 64, ..Behaviour::default() };
    let (_controller, namespace, mut queue) = connect(behaviour);
    for slba in 0..64 {
        let data = vec![u8::try_from(slba).unwrap(); BLOCK_SIZE];
        queue.submit(namespace.write(slba, data).unwrap()).unwrap();
    }
    while queue.outstanding() > 0 {
        queue.reap().unwrap().ok().unwrap();
    }
    let tokens: Vec<_> =
        (0..64).map(|slba| queue.submit(namespace.read(slba, 1).unwrap()).unwrap()).collect();
    assert!(matches!(queue.submit(namespace.flush()), Err(Error::QueueFull { depth: 64 })));
    let first = queue.reap().unwrap();
    assert_eq!(first.token, tokens[63], "the target answers last first");
    assert_eq!(first.ok().unwrap(), [63; BLOCK_SIZE]);
    for (slba, token) in tokens.into_iter().enumerate().take(63) {
        let data = queue.wait(token).unwrap().ok().unwrap();
        assert_eq!(data, [u8::try_from(slba).unwrap(); BLOCK_SIZE]);
    }
    assert_eq!(queue.outstanding(), 0);
}

#[test]
fn many_large_writes_and_reads_at_once_do_not_block_each_other() {
    let (_controller, namespace, mut queue) = connect(Behaviour::default());
    for round in 0..8u64 {
        for io in 0..8u64 {
            let request = if (round + io) % 2 == 0 {
                namespace.write(io * 512, pattern(512, 9)).unwrap()
            } else {
                namespace.read(io * 512, 512).unwrap()
            };
            queue.submit(request).unwrap();
        }
    }
    for _ in 0..64 {
        queue.reap().unwrap().ok().unwrap();
    }
}

#[test]
fn the_other_commands_do_what_they_say() {
    let (_controller, namespace, mut queue) = connect(Behaviour::default());
    let data = pattern(16, 1);
    let zeroes = vec![0; 4 * BLOCK_SIZE];
    assert_eq!(status(queue.run(namespace.write_fua(0, data.clone()).unwrap())), Status::SUCCESS);
    assert_eq!(status(queue.run(namespace.flush())), Status::SUCCESS);
    assert_eq!(status(queue.run(namespace.compare(0, data).unwrap())), Status::SUCCESS);
    assert_eq!(status(queue.run(namespace.write_zeroes(0, 4, false).unwrap())), Status::SUCCESS);
    assert_eq!(
        status(queue.run(namespace.deallocate(&[(8, 2), (10, 2)]).unwrap())),
        Status::SUCCESS
    );
    for slba in [0, 8] {
        assert_eq!(queue.run(namespace.read(slba, 4).unwrap()).unwrap().ok().unwrap(), zeroes);
    }
    assert_eq!(status(queue.run(namespace.compare(4, zeroes).unwrap())), Status::COMPARE_FAILURE);
}

#[test]
fn a_command_that_fails_leaves_the_queue_usable() {
    let (_controller, namespace, mut queue) = connect(Behaviour::default());
    let end = u64::try_from(NUM_BLOCKS).unwrap();
    let error = queue.run(namespace.read(end, 1).unwrap()).unwrap().ok().unwrap_err();
    assert_eq!(
        error.to_string(),
        "Read failed: LBA_OUT_OF_RANGE (sct 0h, sc 80h, dnr), dw0 00000000h"
    );
    write_and_read(&namespace, &mut queue);
}

#[test]
fn a_subsystem_that_is_not_there_is_named() {
    let options = Options::new(start(Behaviour::default()), "nqn.2016-06.io.spdk:unknown");
    let error = Controller::connect(options).unwrap_err();
    assert!(matches!(
        error,
        Error::Status { what: "Connect", dw0: 0x0001_0100, status }
            if status.code() == Status::CONNECT_INVALID_PARAMETERS
    ));
}

#[test]
fn an_event_comes_while_other_commands_run() {
    let (mut controller, ..) = connect(Behaviour::default());
    controller.request_event().unwrap();
    assert_eq!(controller.event(Duration::from_millis(50)).unwrap(), None);
    controller.keep_alive().unwrap();
    let event = controller.event(Duration::from_secs(5)).unwrap();
    assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
}

#[test]
fn the_discovery_log_is_read_whole() {
    let options = Options::new(start(Behaviour::default()), nqn::DISCOVERY);
    let entries = Controller::connect(options).unwrap().discovery_log().unwrap();
    let ports: Vec<_> = entries.iter().filter_map(|entry| entry.trsvcid.as_str()).collect();
    assert_eq!(ports, ["4420", "4421"]);
    assert_eq!(entries[0].subnqn.as_str(), Some(SUBNQN));
}

#[test]
fn a_wrong_data_digest_fails_only_its_command() {
    let behaviour = Behaviour { digests: BOTH, wrong_data_digest: true, ..Behaviour::default() };
    let (_controller, namespace, mut queue) =
        connect_with(behaviour, |options| options.digests = BOTH);
    let read = queue.run(namespace.read(0, 1).unwrap());
    assert_eq!(status(read), Status::TRANSIENT_TRANSPORT_ERROR);
    assert_eq!(status(queue.run(namespace.flush())), Status::SUCCESS);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let behaviour = Behaviour { digests: BOTH, wrong_header_digest: true, ..Behaviour::default() };
    let mut options = Options::new(start(behaviour), SUBNQN);
    options.digests = BOTH;
    let error = Controller::connect(options).unwrap_err();
    assert!(
        matches!(error, Error::Protocol(ProtocolError { fes: Fes::HeaderDigest, .. })),
        "{error}"
    );
}

#[test]
fn data_that_nobody_asked_for_ends_the_connection() {
    let behaviour = Behaviour { wrong_offset: true, ..Behaviour::default() };
    let (_controller, namespace, mut queue) = connect(behaviour);
    let error = queue.run(namespace.read(0, 1).unwrap()).unwrap_err();
    assert!(
        matches!(error, Error::Protocol(ProtocolError { fes: Fes::DataOutOfRange, .. })),
        "{error}"
    );
}

#[test]
fn nothing_in_time_is_a_timeout() {
    let behaviour = Behaviour { hold_reads: 2, ..Behaviour::default() };
    let (_controller, namespace, mut queue) = connect(behaviour);
    queue.set_timeout(Duration::from_millis(50));
    let error = queue.run(namespace.read(0, 1).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn a_raw_connection_sends_anything_and_sees_the_end() {
    let address = start(Behaviour::default());
    let mut raw = RawConnection::connect(address, Duration::from_secs(5)).unwrap();
    let request = IcReq { pfv: 0, hpda: Alignment::DWORD, digests: Digests::default(), maxr2t: 0 };
    assert_eq!(raw.initialize(request).unwrap().maxh2cdata, 8192);
    // A terminate request: the target closes.
    raw.send(&[2, 0, 24, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(raw.wait_closed().unwrap());
}
