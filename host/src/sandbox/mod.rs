//! The rights that a running host gives up, so that an attacker who takes it over gains less.
//!
//! | right | when | log line |
//! |---|---|---|
//! | new privileges, and system calls that no host needs | always | `seccomp` |
//! | files beyond its own | `--sandbox` | `landlock` |
//! | capabilities of root | `--sandbox` | `capabilities` |
//!
//! Each of these also applies to threads that are started later, so this runs first. `docs/security.md` says which attackers this stops.

mod capabilities;
mod landlock;
mod places;
mod seccomp;

use crate::cli::Serve;

/// Confines this process. Returns one log line for each restriction. Must run before any thread is
/// started.
///
/// # Errors
/// A restriction of `--sandbox` that the system does not provide.
pub fn enter(options: &Serve) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    if options.sandbox.sandbox {
        lines.push(landlock::restrict(&places::of(options)?)?);
        lines.push(capabilities::drop_most()?);
    }
    // Install the filter last. If a container forbids it, the container has a filter of its own.
    lines.push(seccomp::apply().unwrap_or_else(|why| format!("seccomp: not active: {why}")));
    Ok(lines)
}
