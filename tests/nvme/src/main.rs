//! Tests of the NVMe/TCP target with real initiators.
//!
//! Every test starts its own `drivebay serve` ([`host`]), creates what it needs by RPC ([`target`]), and connects over
//! loopback. It uses our initiator (`sdk/nvme`), or sends single PDUs where the initiator is too well-behaved
//! ([`raw`]). A [`witness`] on another connection verifies its data meanwhile. `DRIVEBAY_BIN` and `DRIVEBAY_PLUGIN_DIR`
//! name the program and its plugins; by default they lie beside the folder of this test. `cargo build --workspace`
//! builds them.
//!
//! With `DRIVEBAY_SOAK` set, tests run completely that otherwise only sample.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod administration;
mod changes;
mod commands;
mod connecting;
mod discovery;
mod drops;
mod ending;
mod flow_control;
mod host;
mod listeners;
mod malformed;
mod plugin_folder;
mod raw;
mod reactors;
mod rpc;
mod target;
mod transfer;
mod witness;

/// The number of repetitions: `sampled`, or `whole` in `cargo xtask soak`.
fn times(sampled: usize, whole: usize) -> usize {
    if std::env::var_os("DRIVEBAY_SOAK").is_some() { whole } else { sampled }
}
