//! `cargo xtask asan`: the Rust tests under AddressSanitizer.
//!
//! The tests of a crate share a process, as they do in a vendor's `cargo test`. So the sanitizer also finds a test that uses memory
//! which another test has freed. The toolchain has the sanitizer's runtime, but its flag is unstable, which `RUSTC_BOOTSTRAP` allows.

use crate::{Failure, Outcome, run};

/// Crates whose tests the sanitizer cannot follow: loom switches stacks itself.
const LEFT_OUT: [&str; 1] = ["drivebay-loom"];

/// `args` are the names of crates; none = all.
pub(crate) fn main(args: &[&str]) -> Outcome {
    if let Some(flag) = args.iter().find(|arg| arg.starts_with('-')) {
        return Err(Failure::usage("asan", flag, "names of crates"));
    }
    let built = run::target().join("asan");
    let mut command = run::cargo(&["test", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    command.args(["--target", run::HOST]).arg("--target-dir").arg(&built);
    if args.is_empty() {
        command.arg("--workspace");
        LEFT_OUT.iter().for_each(|name| {
            command.args(["--exclude", name]);
        });
    }
    args.iter().for_each(|name| {
        command.args(["--package", name]);
    });
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address -Cforce-frame-pointers=yes")
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        // The host and the SDK never free what late senders and callbacks may still use.
        .env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1");
    let tally = run::counted(&command)?;
    println!("\n{tally}");
    if tally.failed == 0 && tally.passed > 0 { Ok(()) } else { Err(Failure::Counted) }
}
