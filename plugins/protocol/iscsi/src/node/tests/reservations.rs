//! PERSISTENT RESERVE OUT: answers that wait for the backend or for aborted commands.

use super::*;
use drivebay_spec_scsi::reservation::{OutAction, OutParameters};

impl Bench {
    fn reserve_out(&mut self, itt: u32, action: OutAction, key: u64, other: u64) {
        let out = OutParameters { key, service_action_key: other, ..OutParameters::default() };
        let list = out.encode();
        let cdb = [0x5f, action as u8, 1, 0, 0, 0, 0, 0, list.len() as u8, 0];
        let len = list.len() as u32;
        self.command(itt, 0, &cdb, FINAL | ScsiCommand::WRITE, len, &list);
    }

    /// A session has a registration, and a write at the bdev.
    fn registered_writer() -> Self {
        let mut bench = Self::new(Agreed::default());
        bench.reserve_out(1, OutAction::RegisterAndIgnore, 0, 1);
        assert_eq!(bench.statuses(), [(1, 0)]);
        bench.write(2, 0, 1, &[5; 512]);
        assert_eq!(bench.node.backend().waiting.len(), 1);
        bench
    }

    /// A second session preempts the first one, whose write is at the bdev.
    fn preempt_a_writer() -> Self {
        Self::registered_writer().preempt()
    }

    /// A second session preempts the first one.
    fn preempt(mut self) -> Self {
        let bench = &mut self;
        bench.link = bench.node.attach(established(2, Agreed::default()));
        bench.cmd_sn = 1;
        bench.reserve_out(3, OutAction::RegisterAndIgnore, 0, 2);
        assert_eq!(bench.statuses(), [(3, 0)]);
        bench.reserve_out(4, OutAction::PreemptAndAbort, 2, 1);
        assert!(bench.statuses().is_empty(), "a write that it aborts is at the bdev");
        self
    }
}

#[test]
fn a_preempt_and_abort_is_answered_when_the_aborted_write_has_ended() {
    let mut bench = Bench::preempt_a_writer();
    bench.command(5, 0, &[0; 6], FINAL, 0, &[]);
    assert_eq!(bench.statuses(), [(5, 0)], "others do not wait");
    bench.run();
    assert_eq!(bench.statuses(), [(4, 0)]);
    bench.link = 0;
    assert!(bench.statuses().is_empty(), "the aborted write is answered to nobody");
}

#[test]
fn a_preempt_and_abort_waits_without_limit_and_may_be_aborted_itself() {
    let mut bench = Bench::preempt_a_writer();
    bench.node.tick(60_000_000_000);
    assert!(bench.statuses().is_empty());
    bench.run();
    assert_eq!(bench.statuses(), [(4, 0)]);

    let mut bench = Bench::preempt_a_writer();
    bench.manage(10, function::ABORT_TASK, 4);
    assert_eq!(bench.managed(), Some(0));
    bench.run();
    assert!(bench.statuses().is_empty());
}

#[test]
fn a_preempt_and_abort_waits_for_the_write_of_a_session_that_has_ended() {
    let mut bench = Bench::registered_writer();
    bench.node.end_session(1);
    let mut bench = bench.preempt();
    bench.run();
    assert_eq!(bench.statuses(), [(4, 0)]);
}

#[test]
fn a_registration_is_answered_when_it_sticks_and_undone_when_it_does_not() {
    for (settled, status) in [
        (Settled::Kept, Status::Good),
        (Settled::InUse, Status::ReservationConflict),
        (Settled::NotStored, Status::CheckCondition),
    ] {
        let mut bench = Bench::new(Agreed::default());
        bench.node.device_mut().settle_reservations();
        bench.reserve_out(1, OutAction::Register, 0, 7);
        assert!(bench.statuses().is_empty());
        let (unit, key) = bench.node.backend_mut().changes.remove(0);
        bench.reserve_out(2, OutAction::RegisterAndIgnore, 0, 8);
        assert_eq!(bench.statuses(), [(2, Status::Busy as u8)], "one change at a time");
        bench.node.settled(unit, key, settled);
        assert_eq!(bench.statuses(), [(1, status as u8)]);
        // The command is answered when the backend has confirmed key 7. A reservation needs no confirmation.
        bench.reserve_out(3, OutAction::Reserve, 7, 0);
        let reserved = if status == Status::Good { status } else { Status::ReservationConflict };
        assert_eq!(bench.statuses(), [(3, reserved as u8)]);
    }
}

#[test]
fn an_initiator_that_leaves_before_its_registration_sticks_holds_nothing_up() {
    let mut bench = Bench::new(Agreed::default());
    bench.node.device_mut().settle_reservations();
    bench.reserve_out(1, OutAction::Register, 0, 7);
    let (unit, key) = bench.node.backend_mut().changes.remove(0);
    bench.node.lost(bench.link);
    bench.node.settled(unit, key, Settled::Kept);
    bench.link = bench.node.attach(established(2, Agreed::default()));
    bench.cmd_sn = 1;
    bench.reserve_out(2, OutAction::RegisterAndIgnore, 0, 8);
    assert_eq!(bench.statuses(), [(2, 0)]);
}

#[test]
fn a_late_verdict_on_a_registration_of_a_removed_unit_does_not_reach_the_next_unit() {
    let mut bench = Bench::new(Agreed::default());
    bench.node.device_mut().settle_reservations();
    bench.reserve_out(1, OutAction::Register, 0, 7);
    let (unit, late) = bench.node.backend_mut().changes.remove(0);
    bench.node.remove_unit(unit);
    assert_eq!(bench.statuses(), [(1, Status::CheckCondition as u8)]);
    bench.node.add_unit(unit, disk(unit));
    bench.reserve_out(2, OutAction::Register, 0, 8);
    bench.node.settled(unit, late, Settled::NotStored);
    assert!(bench.statuses().is_empty());
    let (unit, key) = bench.node.backend_mut().changes.remove(0);
    bench.node.settled(unit, key, Settled::Kept);
    assert_eq!(bench.statuses(), [(2, 0)]);
    bench.reserve_out(3, OutAction::Reserve, 8, 0);
    assert_eq!(bench.statuses(), [(3, 0)]);
}
