//! `drivebay plugin check`: checks a plugin against the rules of the ABI.
//!
//! ```text
//! supervisor ── starts itself again for each group of checks ──▶ child: host, guard, suite, plugin
//!      ▲                                                            │
//!      └──────────── one line of JSON per start and end ────────────┘
//! ```
//!
//! If a child crashes or does not end, the check that it ran has failed. The crate `drivebay-check`
//! contains the checks.

mod child;
mod core;
mod crash;
mod report;
mod supervisor;

pub use report::Report;

use crate::cli::Check;
use std::io::Write;
use std::process::ExitCode;

/// Checks a plugin and prints the report. In a child process, runs the selected checks.
pub fn check(options: &Check, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    if !options.child.is_empty() {
        return child::run(options);
    }
    match supervisor::supervise(options, out) {
        Ok(report) => {
            let text = if options.json { report.json() } else { report.closing() };
            // The reader may close the pipe.
            let _ = out.write_all(text.as_bytes());
            u8::from(report.failed() > 0).into()
        }
        Err(why) => {
            let _ = writeln!(err, "drivebay plugin check: {}: {why}", options.file.display());
            2.into()
        }
    }
}
