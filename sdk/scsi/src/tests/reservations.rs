//! Reservations of three initiators.

use super::*;
use crate::Preempted;
use drivebay_spec_scsi::reservation::{OutAction, OutParameters, Type};
use drivebay_spec_scsi::sense::asc as code;

const TUR: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

impl Bench {
    fn out(&mut self, who: usize, action: OutAction, kind: u8, key: u64, other: u64) -> Outcome {
        let out = OutParameters { key, service_action_key: other, ..OutParameters::default() };
        let list = out.encode();
        let cdb = [0x5f, action as u8, kind, 0, 0, 0, 0, 0, list.len() as u8, 0];
        self.send_as(who, 0, &cdb, &list)
    }

    fn register(&mut self, who: usize, key: u64) {
        assert_eq!(self.out(who, OutAction::RegisterAndIgnore, 0, 0, key), Outcome::good());
    }

    fn reserve(&mut self, who: usize, kind: Type, key: u64) {
        assert_eq!(self.out(who, OutAction::Reserve, kind as u8, key, 0), Outcome::good());
    }

    fn passes(&mut self, who: usize, cdb: &[u8]) -> bool {
        match self.send_as(who, 0, cdb, &[0; 512]).status {
            Status::Good => true,
            Status::ReservationConflict => false,
            other => panic!("{other:?}"),
        }
    }

    /// Keys, and the key and type of the reservation.
    fn status(&mut self) -> (Vec<u64>, Option<(u64, u8)>) {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let keys = self.send(&[0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0], &[]).data;
        let held = self.send(&[0x5e, 1, 0, 0, 0, 0, 0, 1, 0, 0], &[]).data;
        let held = (held.len() > 8).then(|| (number(&held[8..16]), held[21]));
        (keys[8..].chunks(8).map(number).collect(), held)
    }
}

#[test]
fn each_type_admits_whom_the_table_says() {
    for of in [1, 3, 5, 6, 7, 8].map(|bits| Type::from_bits(bits).unwrap()) {
        let kind = crate::kind_of(of);
        let mut bench = Bench::new();
        bench.register(0, 1);
        bench.register(1, 2);
        bench.reserve(0, of, 1);
        let registrant = kind.admits_registrants();
        let reader = kind.admits_readers();
        for (who, reads, writes) in
            [(0, true, true), (1, registrant || reader, registrant), (2, reader, false)]
        {
            assert_eq!(bench.passes(who, &READ), reads, "{kind:?} {who}");
            assert_eq!(bench.passes(who, &WRITE), writes, "{kind:?} {who}");
            assert!(bench.passes(who, &TUR));
        }
    }
}

#[test]
fn the_wrong_key_and_those_that_are_not_registered_are_in_conflict() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    for action in [OutAction::Reserve, OutAction::Clear, OutAction::Preempt, OutAction::Register] {
        let outcome = bench.out(0, action, 1, 9, 1);
        assert_eq!(outcome.status, Status::ReservationConflict, "{action:?}");
    }
    assert_eq!(bench.out(1, OutAction::Reserve, 1, 0, 0).status, Status::ReservationConflict);
    assert_eq!(bench.status(), (vec![1], None));
}

#[test]
fn the_reservation_follows_a_changed_key_and_goes_with_its_holder() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    bench.register(1, 2);
    bench.reserve(0, Type::WriteExclusiveRegistrants, 1);
    assert_eq!(bench.out(0, OutAction::Register, 0, 1, 5), Outcome::good());
    assert_eq!(bench.status(), (vec![5, 2], Some((5, 5))));
    assert_eq!(bench.out(0, OutAction::Register, 0, 5, 0), Outcome::good());
    assert_eq!(bench.status(), (vec![2], None));
    assert_eq!(asc(&bench.send_as(1, 0, &TUR, &[])), code::RESERVATIONS_RELEASED);
}

#[test]
fn what_all_registrants_hold_lasts_until_the_last_of_them() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    bench.register(1, 2);
    bench.reserve(0, Type::ExclusiveAccessAll, 1);
    bench.register(0, 0);
    assert_eq!(bench.status(), (vec![2], Some((0, 8))));
    assert!(!bench.passes(0, &WRITE) && bench.passes(1, &WRITE));
    bench.register(1, 0);
    assert_eq!(bench.status(), (vec![], None));
    assert!(bench.passes(0, &WRITE));
}

#[test]
fn a_release_of_another_type_is_refused_and_one_by_others_does_nothing() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    bench.register(1, 2);
    bench.reserve(0, Type::ExclusiveAccess, 1);
    assert_eq!(bench.out(1, OutAction::Release, 3, 2, 0), Outcome::good());
    let wrong = bench.out(0, OutAction::Release, 1, 1, 0);
    assert_eq!(asc(&wrong), code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION);
    assert_eq!(bench.status().1, Some((1, 3)));
    assert_eq!(bench.out(0, OutAction::Release, 3, 1, 0), Outcome::good());
    assert_eq!(bench.status().1, None);
}

#[test]
fn preempting_takes_the_reservation_or_removes_registrations() {
    let mut bench = Bench::new();
    (0..3).for_each(|who| bench.register(who, who as u64 + 1));
    bench.reserve(0, Type::ExclusiveAccess, 1);
    // Not the holder's key: the registration goes, the reservation stays.
    assert_eq!(bench.out(1, OutAction::Preempt, 3, 2, 3), Outcome::good());
    assert_eq!(bench.status(), (vec![1, 2], Some((1, 3))));
    assert_eq!(asc(&bench.send_as(2, 0, &TUR, &[])), code::REGISTRATIONS_PREEMPTED);
    assert_eq!(bench.out(1, OutAction::PreemptAndAbort, 1, 2, 1), Outcome::good());
    assert_eq!(bench.status_as_1(), (vec![2], Some((2, 1))));
    let preempted = Preempted { unit: 0, nexuses: vec![bench.nexuses[0]] };
    assert_eq!(bench.device.take_preempted(), Some(preempted));
    assert_eq!(bench.out(1, OutAction::Preempt, 1, 2, 77).status, Status::ReservationConflict);
}

impl Bench {
    /// As [`status`](Self::status), after the first initiator took its unit attention.
    fn status_as_1(&mut self) -> (Vec<u64>, Option<(u64, u8)>) {
        assert_eq!(asc(&self.send(&TUR, &[])), code::REGISTRATIONS_PREEMPTED);
        self.status()
    }
}

#[test]
fn a_reservation_moves_to_an_initiator_that_is_named() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    bench.reserve(0, Type::WriteExclusive, 1);
    let id = identity(1).transport_id;
    let mut list = [1_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
    list.extend([0, 2, 0, 1]);
    list.extend((id.len() as u32).to_be_bytes());
    list.extend(&id);
    let cdb = [0x5f, 7, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    assert_eq!(bench.send(&cdb, &list), Outcome::good());
    assert_eq!(bench.status(), (vec![9], Some((9, 1))));
    assert!(bench.passes(1, &WRITE) && !bench.passes(0, &WRITE));
}

#[test]
fn a_registration_for_all_ports_counts_at_each_of_them_and_goes_as_a_whole() {
    let mut bench = Bench::new();
    let port = |relative| crate::Port { relative, name: format!("port {relative}") };
    bench.device.set_ports(vec![port(1), port(2)]);
    bench.nexuses[1] = bench.device.attach(Identity { port: 2, ..identity(0) });
    let register = |bench: &mut Bench, key, new| {
        let out = OutParameters {
            key,
            service_action_key: new,
            all_ports: true,
            ..OutParameters::default()
        };
        let outcome = bench.send(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &out.encode());
        assert_eq!(outcome, Outcome::good());
    };
    register(&mut bench, 0, 1);
    assert_eq!(bench.status().0, [1, 1]);
    bench.reserve(1, Type::ExclusiveAccess, 1);
    assert!(bench.passes(1, &WRITE) && !bench.passes(0, &WRITE) && !bench.passes(2, &WRITE));
    register(&mut bench, 1, 4);
    assert_eq!(bench.status(), (vec![4, 4], Some((4, 3))));
    register(&mut bench, 4, 0);
    assert_eq!(bench.status(), (vec![], None));
}

#[test]
fn registrations_outlast_a_login_and_have_a_limit() {
    let mut bench = Bench::new();
    bench.register(0, 1);
    bench.reserve(0, Type::ExclusiveAccess, 1);
    bench.device.detach(bench.nexuses[0]);
    bench.nexuses[0] = bench.device.attach(identity(0));
    assert!(bench.passes(0, &WRITE) && !bench.passes(1, &WRITE));
    let mut ids = Vec::new();
    for n in 0..=255 {
        ids.extend(reservation::iscsi_transport_id("iqn.many", [1, 0, 0, 0, 0, n]));
    }
    let out = OutParameters {
        service_action_key: 3,
        has_initiators: true,
        transport_ids: ids[..ids.len() / 8].to_vec(),
        ..OutParameters::default()
    };
    let list = out.encode();
    let [high, low] = (list.len() as u16).to_be_bytes();
    for who in 0..2 {
        let outcome = bench.send_as(2 - who, 0, &[0x5f, 0, 0, 0, 0, 0, 0, high, low, 0], &list);
        assert_eq!(outcome, Outcome::good());
    }
    assert_eq!(bench.status().0.len(), 1 + 2 + 32);
}

#[test]
fn reserve_6_excludes_others_until_its_nexus_goes() {
    let mut bench = Bench::new();
    let reserve = [0x16, 0, 0, 0, 0, 0];
    assert!(bench.passes(0, &reserve) && !bench.passes(1, &reserve));
    assert!(!bench.passes(1, &READ) && bench.passes(0, &READ));
    assert!(bench.passes(1, &[0x17, 0, 0, 0, 0, 0]), "a release by others does nothing");
    assert!(!bench.passes(1, &READ));
    bench.device.detach(bench.nexuses[0]);
    assert!(bench.passes(1, &READ));
    bench.register(1, 1);
    assert!(!bench.passes(2, &reserve) && bench.passes(1, &reserve));
}

#[test]
fn initiators_that_are_named_are_registered_once_at_each_port_that_is_meant() {
    let mut bench = Bench::new();
    let port = |relative| crate::Port { relative, name: format!("port {relative}") };
    bench.device.set_ports(vec![port(1), port(2)]);
    let [own, other] = [0, 1].map(|n| identity(n).transport_id);
    for (all_ports, registrants) in [(false, 2), (true, 4)] {
        let out = OutParameters {
            service_action_key: 3,
            has_initiators: true,
            all_ports,
            transport_ids: [&other[..], &own[..], &other[..]].concat(),
            ..OutParameters::default()
        };
        let list = out.encode();
        let cdb = [0x5f, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
        assert_eq!(bench.send(&cdb, &list), Outcome::good());
        assert_eq!(bench.status().0, vec![3; registrants]);
        assert_eq!(bench.out(0, OutAction::Clear, 0, 3, 0), Outcome::good());
        let attention = asc(&bench.send_as(1, 0, &TUR, &[]));
        assert_eq!(attention, code::RESERVATIONS_PREEMPTED);
    }
}

#[test]
fn a_device_that_refuses_reservations_does_not_report_their_commands_either() {
    let mut bench = Bench::new();
    bench.device.refuse_reservations();
    for opcode in [0x16, 0x17, 0x56, 0x57, 0x5e, 0x5f] {
        let mut cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        assert_eq!(asc(&bench.send(&cdb, &[0; 24])), code::INVALID_COMMAND_OPERATION_CODE);
        // REPORT SUPPORTED OPERATION CODES for one operation code, with its service action if it has one.
        cdb = [0xa3, 0x0c, 3, opcode, 0, 0, 0, 0, 0, 0];
        let report = [&cdb[..8], &[0, 64, 0, 0][..]].concat();
        assert_eq!(bench.send(&report, &[]).data[1] & 7, 1, "{opcode:#x} is not supported");
    }
}
