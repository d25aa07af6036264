use super::*;

const ALL: [Kind; 6] = [
    Kind::WriteExclusive,
    Kind::ExclusiveAccess,
    Kind::WriteExclusiveRegistrants,
    Kind::ExclusiveAccessRegistrants,
    Kind::WriteExclusiveAll,
    Kind::ExclusiveAccessAll,
];

/// Hosts 1 to `n`, with their numbers as keys.
fn registered(n: u64) -> Table<u64> {
    let mut table = Table::default();
    for who in 1..=n {
        table.register(vec![who], who).unwrap();
    }
    table
}

#[test]
fn each_kind_admits_holder_registrants_and_others_as_the_tables_of_both_standards_say() {
    // (reads, writes) of another registrant, and of a host that did not register.
    let expected = [
        ((true, false), (true, false)),
        ((false, false), (false, false)),
        ((true, true), (true, false)),
        ((true, true), (false, false)),
        ((true, true), (true, false)),
        ((true, true), (false, false)),
    ];
    for (kind, (registrant, other)) in ALL.into_iter().zip(expected) {
        let mut table = registered(2);
        table.reserve(&1, kind).unwrap();
        let of = |who: u64| {
            (table.allows(Some(&who), Access::Read), table.allows(Some(&who), Access::Write))
        };
        assert_eq!((of(1), of(2), of(9)), ((true, true), registrant, other), "{kind:?}");
        assert_eq!(table.allows(None, Access::Write), other.1, "{kind:?}");
    }
}

#[test]
fn without_a_reservation_everything_is_allowed() {
    assert!(registered(2).allows(Some(&9), Access::Write));
}

#[test]
fn a_shared_reservation_ends_with_its_holder_or_with_the_last_of_all_registrants() {
    let mut table = registered(3);
    table.reserve(&1, Kind::WriteExclusiveRegistrants).unwrap();
    let told = table.unregister(&[1]);
    let heard = vec![(2, Notice::ReservationReleased), (3, Notice::ReservationReleased)];
    assert_eq!((told.notices, table.held()), (heard, None));
    table.reserve(&2, Kind::WriteExclusiveAll).unwrap();
    assert_eq!(table.unregister(&[2]).notices, []);
    assert!(table.holds(&3));
    assert_eq!(table.unregister(&[3]).notices, []);
    assert!(table.held().is_none());
}

#[test]
fn preempting_the_holders_key_takes_the_reservation_and_another_key_only_unregisters() {
    let mut table = registered(3);
    table.reserve(&1, Kind::WriteExclusive).unwrap();
    let told = table.preempt(&2, Kind::ExclusiveAccess, 3).unwrap();
    assert_eq!(told.preempted, [3]);
    assert!(table.holds(&1));
    let told = table.preempt(&2, Kind::ExclusiveAccess, 1).unwrap();
    assert_eq!(told.notices, [(1, Notice::RegistrationPreempted)]);
    assert!(table.holds(&2));
    assert_eq!(table.preempt(&2, Kind::WriteExclusive, 7), Err(Refusal::Conflict));
    assert_eq!(table.preempt(&2, Kind::WriteExclusive, 0), Err(Refusal::KeyZero));
}

#[test]
fn key_zero_preempts_all_other_registrants_that_share_a_reservation() {
    let mut table = registered(3);
    table.reserve(&1, Kind::WriteExclusiveAll).unwrap();
    let told = table.preempt(&2, Kind::WriteExclusive, 0).unwrap();
    assert_eq!(told.preempted, [1, 3]);
    assert_eq!(table.held(), Some(&Held { kind: Kind::WriteExclusive, holder: Some(2) }));
}

#[test]
fn the_last_of_all_registrants_that_preempts_its_own_key_ends_the_reservation() {
    let mut table = registered(2);
    table.reserve(&1, Kind::ExclusiveAccessAll).unwrap();
    table.preempt(&2, Kind::ExclusiveAccessAll, 2).unwrap();
    assert!(table.held().is_some() && table.holds(&1), "another registrant is left");
    table.preempt(&1, Kind::ExclusiveAccessAll, 1).unwrap();
    assert_eq!((table.registrants().len(), table.held()), (0, None));
    assert!(table.allows(Some(&9), Access::Write));
}

#[test]
fn a_refused_change_leaves_the_table_as_it_was() {
    let max = u64::try_from(REGISTRANTS_MAX).unwrap();
    let mut table = registered(max);
    table.unregister(&[max]);
    let generation = table.generation();
    assert_eq!(table.register(vec![max, max + 1], 5), Err(Refusal::Full));
    assert_eq!((table.registrants().len(), table.generation()), (REGISTRANTS_MAX - 1, generation));
    table.reserve(&1, Kind::WriteExclusive).unwrap();
    assert_eq!(table.release(&1, Some(Kind::ExclusiveAccess)), Err(Refusal::WrongKind));
    assert_eq!(table.reserve(&2, Kind::WriteExclusive), Err(Refusal::Conflict));
    assert!(table.holds(&1));
}

#[test]
fn a_stored_table_comes_back_only_when_its_parts_fit_together() {
    for kind in ALL {
        let mut table = registered(2);
        table.reserve(&1, kind).unwrap();
        let stored = (table.registrants().to_vec(), table.held().cloned());
        let back = Table::restore(stored.0.clone(), stored.1.clone()).unwrap();
        assert_eq!((back.registrants(), back.held()), (&*stored.0, stored.1.as_ref()));
    }
    let one = Registrant { who: 1, key: 1 };
    let held = |kind, holder| Some(Held { kind, holder });
    for (registrants, held) in [
        (vec![], held(Kind::WriteExclusive, Some(1))),
        (vec![], held(Kind::WriteExclusiveAll, None)),
        (vec![one.clone()], held(Kind::WriteExclusive, None)),
        (vec![one.clone()], held(Kind::WriteExclusiveAll, Some(1))),
        (vec![one.clone()], held(Kind::WriteExclusive, Some(2))),
        (vec![one.clone(), one.clone()], None),
        (vec![Registrant { who: 1, key: 0 }], None),
    ] {
        assert!(Table::restore(registrants, held).is_none());
    }
}
