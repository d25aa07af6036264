//! Initiators that break the rules.

use super::*;

#[test]
fn data_past_the_expected_length_ends_the_command_and_is_not_written() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    let r2t = R2t::parse(&bench.sent()[0].1);
    let out = DataOut { flags: FINAL, itt: 1, ttt: r2t.ttt, ..DataOut::default() };
    bench.send(out.encode(1024), &[7; 1024]);
    assert_eq!(bench.statuses(), [(1, 2)]);
    assert!(bench.node.backend_mut().waiting.is_empty());

    // Immediate data: the device takes what the command expects.
    bench.write(2, 4, 1, &[7; 1024]);
    bench.run();
    assert_eq!(bench.statuses().len(), 1);
    let memory = &bench.node.backend_mut().memory[&0];
    assert!(memory[5 * BLOCK..6 * BLOCK].iter().all(|byte| *byte == 0), "the block behind it");
}

#[test]
fn the_bursts_of_a_write_must_come_in_order() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 2, &[]);
    let r2t = R2t::parse(&bench.sent()[0].1);
    let second = DataOut { flags: FINAL, itt: 1, ttt: r2t.ttt, offset: 512, ..DataOut::default() };
    bench.send(second.encode(512), &[7; 512]);
    assert_eq!(bench.statuses(), [(1, 2)]);
    let first = DataOut { flags: FINAL, itt: 1, ttt: r2t.ttt, ..DataOut::default() };
    bench.send(first.encode(1024), &[7; 1024]);
    bench.run();
    assert_eq!(bench.sent().len(), 0, "data of a command that has ended goes nowhere");
    assert_eq!(bench.node.backend_mut().memory[&0][..1024], [0; 1024]);
}

#[test]
fn a_command_with_a_task_tag_in_use_is_rejected_and_does_not_disturb_the_other() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    bench.write(1, 8, 1, &[]);
    let sent = bench.sent();
    let (r2t, reject) = (R2t::parse(&sent[0].1), pdu::Reject::parse(&sent[1].1));
    assert_eq!(sent[1].0, Opcode::Reject);
    assert_eq!(reject.reason, pdu::RejectReason::TaskInProgress as u8);
    bench.data_out(&r2t, &[5; 512], 512);
    bench.run();
    assert_eq!(bench.statuses(), [(1, 0)]);
    let memory = &bench.node.backend_mut().memory[&0];
    assert_eq!((memory[0], memory[8 * BLOCK]), (5, 0));
}

#[test]
fn a_transfer_tag_of_a_command_that_has_ended_reaches_no_later_command() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    let old = R2t::parse(&bench.sent()[0].1);
    bench.manage(10, function::ABORT_TASK, 1);
    bench.sent();
    bench.write(1, 8, 1, &[]);
    let new = R2t::parse(&bench.sent()[0].1);
    assert_ne!(old.ttt, new.ttt);
    bench.data_out(&old, &[5; 512], 512);
    assert!(bench.node.backend_mut().waiting.is_empty());
    bench.data_out(&new, &[6; 512], 512);
    bench.run();
    assert_eq!(bench.statuses(), [(1, 0)]);
    let memory = &bench.node.backend_mut().memory[&0];
    assert_eq!((memory[0], memory[8 * BLOCK]), (0, 6));
}
