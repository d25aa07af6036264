//! Reservations.

use super::*;

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
