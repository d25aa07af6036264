//! The same seed repeats the same run.

#[test]
fn a_seed_does_the_same_again_whatever_ran_before() {
    let mut reactor = drivebay_sim::reactor();
    let first = drivebay_sim::run(&mut reactor, 7, 500);
    let other = drivebay_sim::run(&mut reactor, 8, 300);
    assert_ne!(first.trace, other.trace);
    assert_eq!(drivebay_sim::run(&mut reactor, 7, 500), first);
}
