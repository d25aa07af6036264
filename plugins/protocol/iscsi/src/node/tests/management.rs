//! Task management functions.

use super::*;

#[test]
fn an_abort_is_answered_at_once_for_what_waits_and_later_for_what_is_at_the_bdev() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    bench.manage(10, function::ABORT_TASK, 1);
    assert_eq!(bench.managed(), Some(0));
    bench.read(2, 0, 1);
    bench.manage(11, function::ABORT_TASK, 2);
    assert_eq!(bench.managed(), None, "its I/O is at the bdev");
    bench.run();
    let sent = bench.sent();
    assert_eq!(sent.len(), 1, "no data of an aborted command");
    assert_eq!(pdu::TaskManagementResponse::parse(&sent[0].1).response, 0);
    bench.manage(12, function::ABORT_TASK, 99);
    assert_eq!(bench.managed(), Some(1), "there is no such task");
}

#[test]
fn an_io_that_hangs_does_not_hold_up_the_answer_for_ever_nor_a_new_session() {
    let mut bench = Bench::new(Agreed::default());
    bench.read(1, 0, 1);
    bench.manage(10, function::LOGICAL_UNIT_RESET, NO_TAG);
    assert_eq!(bench.managed(), None);
    bench.node.tick(5_000_000_001);
    assert_eq!(bench.managed(), Some(255));
    bench.node.end_session(1);
    bench.link = bench.node.attach(established(2, Agreed::default()));
    bench.cmd_sn = 1;
    bench.command(1, 1, &[0; 6], FINAL, 0, &[]);
    assert_eq!(bench.statuses().len(), 1);
    bench.run();
    assert_eq!(bench.sent().len(), 0, "the old command is answered to nobody");
}

#[test]
fn a_reset_does_not_abort_the_commands_behind_it() {
    let mut bench = Bench::new(Agreed::default());
    let reset = pdu::TaskManagement {
        function: FINAL | function::LOGICAL_UNIT_RESET,
        itt: 10,
        ref_tag: NO_TAG,
        cmd_sn: bench.cmd_sn,
        ..pdu::TaskManagement::default()
    };
    bench.node.inbox(bench.link).unwrap().push(&reset.encode_immediate(0));
    bench.read(2, 0, 1);
    // The reset comes first, so the read gets its unit attention and does not reach the bdev.
    assert_eq!(bench.statuses(), [(2, Status::CheckCondition as u8)]);
    bench.read(3, 0, 1);
    bench.run();
    assert!(read_data(&bench.sent()).1);
}

#[test]
fn functions_that_wait_for_a_hanging_io_have_a_limit() {
    let mut bench = Bench::new(Agreed::default());
    bench.read(1, 0, 1);
    for itt in 0..256 {
        bench.manage(10 + itt, function::LOGICAL_UNIT_RESET, NO_TAG);
        assert_eq!(bench.managed(), None);
    }
    bench.manage(500, function::LOGICAL_UNIT_RESET, NO_TAG);
    assert_eq!(bench.managed(), Some(255));
}
