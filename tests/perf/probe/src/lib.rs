//! `probe`: a plugin that only measures. `cargo xtask bench` loads it and calls its method.
//!
//! ```text
//! probe_round_trips ─> thread "near" ── message ──> thread "far"
//!                            ▲────────── message ──────┘      depth of them at once
//! ```
#![forbid(unsafe_code)]

mod round_trip;

use drivebay_sdk::rpc::Method;
use drivebay_sdk::{App, Result, plugin};

plugin! {
    name: "probe",
    kind: "test",
    provides: [],
    requires: [],
    methods: ["probe_round_trips"],
    unsafe(threads_move),
    start: start,
}

fn start(app: &App) -> Result<()> {
    Method::new(
        "probe_round_trips",
        "Measures messages between two threads.\nAnswers round_trips and their mean time in ns.",
        round_trip::measure,
    )
    .register(app)
}
