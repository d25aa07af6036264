//! `drivebay plugin check`: a plugin is held against what the ABI asks of it.
//!
//! ```text
//! supervisor ── starts itself anew for every group of checks ──▶ child: host, guard, suite, plugin
//!      ▲                                                            │
//!      └──────────── one line of JSON per begin and end ────────────┘
//! ```
//!
//! A child that dies, or does not end, is the failure of the check that it was at. What the checks
//! are is in the crate `drivebay-check`.

mod child;
mod core;
mod crash;
mod report;
mod supervisor;

pub use report::Report;

use crate::cli::Check;
use std::io::Write;
use std::process::ExitCode;

/// Checks a plugin and prints the report, or, in a child, runs checks.
pub fn check(options: &Check, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    if !options.child.is_empty() {
        return child::run(options);
    }
    match supervisor::supervise(options, out) {
        Ok(report) => {
            let text = if options.json { report.json() } else { report.closing() };
            // A closed pipe is the reader's choice.
            let _ = out.write_all(text.as_bytes());
            u8::from(report.failed() > 0).into()
        }
        Err(why) => {
            let _ = writeln!(err, "drivebay plugin check: {}: {why}", options.file.display());
            2.into()
        }
    }
}
