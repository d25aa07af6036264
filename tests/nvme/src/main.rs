//! The NVMe/TCP target as initiators meet it.
//!
//! Every test starts a `drivebay serve` of its own ([`host`]), makes what it needs by RPC ([`target`]), and talks to it over loopback: with
//! our initiator (`sdk/nvme`), or byte by byte where the initiator is too well-behaved ([`raw`]). A [`witness`] on another connection
//! verifies its data meanwhile. The program and its plugins are found in `DRIVEBAY_BIN` and `DRIVEBAY_PLUGIN_DIR`, else beside this
//! test's own folder; `cargo build --workspace` makes them.
//!
//! With `DRIVEBAY_SOAK` set, what is only sampled otherwise runs whole.
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

/// How often something is repeated: `sampled`, or `whole` in `cargo xtask soak`.
fn times(sampled: usize, whole: usize) -> usize {
    if std::env::var_os("DRIVEBAY_SOAK").is_some() { whole } else { sampled }
}
