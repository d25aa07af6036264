//! The head of the submission queue, with flow control and without. NVMe over Fabrics 1.1, section 2.4.

use crate::raw::{NO_DIGESTS, Raw, connect_data, icreq, read, write};
use crate::target::{BLOCKS, NQN, Target};
use drivebay_nvme_driver::spec::fabrics::{Connect, cattr};
use drivebay_nvme_driver::spec::opcode::nvm;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::spec::{Command, Status};
use serde_json::json;

/// The status and the SQHD of each command, in order.
fn heads(raw: &mut Raw, count: u16) -> Vec<u16> {
    (0..count)
        .map(|cid| {
            // The fabric itself refuses every third command. The head must count these, too.
            let command = if cid % 3 == 2 {
                write(0, 0, 1).with_sgl1(SglDescriptor::Address { address: 0, length: 512 })
            } else {
                Command::new(nvm::FLUSH).with_nsid(1)
            };
            raw.send(&raw.capsule(command.with_cid(cid), &[]));
            let completion = raw.completion();
            assert_eq!(completion.cid, cid);
            completion.sqhd
        })
        .collect()
}

#[test]
fn with_flow_control_the_head_of_the_submission_queue_goes_round() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let connect = Connect { qid: 1, sqsize: 4, ..Connect::default() };
    let completion = raw.connect(connect, &connect_data(NQN, controller.cntlid()));
    assert_eq!(completion.sqhd, 1);
    assert_eq!(heads(&mut raw, 12), [2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]);
}

#[test]
fn without_flow_control_connect_says_so_and_a_read_needs_no_response() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let attributes = cattr::DISABLE_SQ_FLOW_CONTROL;
    let connect = Connect { qid: 1, sqsize: 4, cattr: attributes, ..Connect::default() };
    let completion = raw.connect(connect, &connect_data(NQN, controller.cntlid()));
    assert_eq!((completion.status, completion.sqhd), (Status::SUCCESS, 0xffff));
    assert_eq!(heads(&mut raw, 12), [0; 12]);
    for cid in [1, 2] {
        raw.send(&raw.capsule(read(cid, 0, 8), &[]));
        let (pdu, _) = raw.c2h_data();
        assert_eq!((pdu.cccid, pdu.last, pdu.success), (cid, true, true));
    }
    // A failed command gets a response, even when successful reads get none.
    raw.send(&raw.capsule(read(3, BLOCKS, 1), &[]));
    assert_eq!(raw.completion().status, Status::LBA_OUT_OF_RANGE.with_dnr());
}

#[test]
fn without_c2h_success_every_read_has_a_response() {
    let target = Target::with(&[], json!({"c2h_success": false}));
    let controller = target.connect();
    let mut raw = Raw::open(target.address, icreq(NO_DIGESTS));
    let attributes = cattr::DISABLE_SQ_FLOW_CONTROL;
    let connect = Connect { qid: 1, sqsize: 31, cattr: attributes, ..Connect::default() };
    raw.connect(connect, &connect_data(NQN, controller.cntlid()));
    raw.send(&raw.capsule(read(1, 0, 8), &[]));
    let (pdu, _) = raw.c2h_data();
    assert_eq!((pdu.last, pdu.success), (true, false));
    assert_eq!(raw.completion().cid, 1);
}

#[test]
fn more_commands_than_the_queue_has_entries_are_all_answered() {
    let target = Target::start();
    let controller = target.connect();
    let mut raw = Raw::io_queue(target.address, controller.cntlid(), icreq(NO_DIGESTS));
    let flush = |cid| Command::new(nvm::FLUSH).with_nsid(1).with_cid(cid);
    let burst: Vec<u8> = (0..1000).flat_map(|cid| raw.capsule(flush(cid), &[])).collect();
    raw.send(&burst);
    let mut answered: Vec<u16> = (0..1000).map(|_| raw.completion().cid).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..1000));
}
