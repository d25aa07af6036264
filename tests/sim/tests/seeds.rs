//! The simulation in CI: many seeds, each short; `cargo xtask soak` has the long form.

/// A million I/O over 200 seeds.
#[test]
fn two_hundred_seeds_keep_every_promise() {
    assert!(drivebay_sim::run_all(1..201, 5_000) >= 1_000_000);
}
