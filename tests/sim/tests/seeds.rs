//! The simulation in CI: a million I/O over 200 seeds. `cargo xtask soak sim` runs fifty million.

#[test]
fn every_promise_is_kept_whatever_the_seed() {
    let whole = std::env::var_os("DRIVEBAY_SOAK").is_some();
    let seeds = if whole { 10_000 } else { 200 };
    assert_eq!(drivebay_sim::run_all(1..=seeds, 5_000), seeds * 5_000);
}
