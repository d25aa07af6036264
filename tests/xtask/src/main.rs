//! The tasks of the project: `cargo xtask TASK`. One file a task.
//!
//! What the tasks need beyond Rust is in [`prepare`]; how they start other programs is in [`run`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line program: its output is what it is for")]

mod bench;
mod check;
mod demo;
#[cfg(test)]
mod directions;
mod docs;
mod host;
mod prepare;
mod run;
mod soak;
mod tally;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask TASK

  demo [--once]                     build in release, serve two disks over NVMe/TCP, check them;
                                    serves until Ctrl-C, with --once ends after the check
  test [--no-guest] [--only TEXT]   every test: unit, doc, end to end, in a guest;
                                    --only runs those whose name contains TEXT
  bench [--instructions] [--rates] [--rounds N] [--seconds N] [--reference DIR]
                                    speed of the data path; beside it that of the reference built in DIR
  soak [PART ...]                   the tests that are only sampled in `test`, whole: nvme
  docs [--check]                    generate docs/rpc from the methods' declarations; --check only
                                    tells what of it differs
  prepare                           install (as root, on Debian or Ubuntu) or list what is missing

Exit status: 0 all went well, 1 something failed, 2 wrong usage.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.split_first() {
        Some((&"demo", rest)) => demo::main(rest),
        Some((&"test", rest)) => test::main(rest),
        Some((&"bench", rest)) => bench::main(rest),
        Some((&"soak", rest)) => soak::main(rest),
        Some((&"docs", rest)) => docs::main(rest),
        Some((&"prepare", [])) => prepare::main(),
        Some((&("help" | "-h" | "--help"), _)) => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(Failure::Usage(format!("cargo xtask {}: no such task", args.join(" ")))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("{text}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Task(text)) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
        Err(Failure::Counted) => ExitCode::FAILURE,
    }
}

/// Why a task did not succeed.
enum Failure {
    /// The command line is wrong: what is wrong with it.
    Usage(String),
    /// The task could not do its work: what went wrong.
    Task(String),
    /// Tests failed; the closing line has told so.
    Counted,
}

impl Failure {
    fn usage(task: &str, given: &str, allowed: &str) -> Self {
        Self::Usage(format!("cargo xtask {task}: `{given}` is not allowed; allowed: {allowed}"))
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Task(text)
    }
}

/// What a task answers.
type Outcome = Result<(), Failure>;
