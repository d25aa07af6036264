//! The tasks of the project: `cargo xtask TASK`. Each task has its own file.
//!
//! [`prepare`] lists what the tasks need beyond Rust. [`run`] starts other programs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line program prints its results")]

mod asan;
mod bench;
mod check;
mod demo;
#[cfg(test)]
mod directions;
mod docs;
mod door;
mod fuzz;
mod golden;
mod host;
mod prepare;
#[cfg(test)]
mod rooms;
mod run;
mod soak;
mod tally;
mod templates;
mod test;
mod verify;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask TASK

  demo [--once]                     build in release, serve two disks over NVMe/TCP, check them;
                                    serves until Ctrl-C, with --once ends after the check
  test [--no-guest] [--only TEXT]   run every test: unit, doc, end to end, in a guest;
                                    --only runs those whose name contains TEXT
  bench [--only PART,…] [--reference DIR] [--rounds N] [--seconds N]
                                    measure speed and print tables, with the reference built in DIR beside it
                                    (docs/performance.md has the parts and the other flags)
  soak [PART ...]                   run in full the tests that `test` only samples: nvme, mixed, sim, loom,
                                    plugins, lvol, raid, power, vhost, guests, fuzz
  fuzz [--seconds N] [--wall] [--jobs N] [--only TARGET]
                                    run libFuzzer on every parser of bytes from outside: 10 s of processor time
                                    for each, with --wall 10 s by the clock
  fuzz --merge [--only TARGET]      write the archives of the corpora, with the inputs that libFuzzer found
  asan [CRATE ...]                  run the Rust tests under AddressSanitizer, in a target folder of their own
  door                              count the instructions that the plugin ABI adds to an I/O
  golden                            build the plugin binaries of tests/abi/golden again
  verify ADDRESS NQN BYTES          write a disk that is served over NVMe/TCP, and read it back
  docs [--check]                    generate docs/rpc from the methods' declarations; --check only
                                    reports the files that differ
  templates                         write the files that a template and an example of the SDK share
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
        // Tasks that only `bench` starts. They are not for users.
        Some((&bench::echo::TASK, rest)) => bench::echo::main(rest).map_err(Failure::Task),
        Some((&bench::crowd::TASK, rest)) => bench::crowd::main(rest).map_err(Failure::Task),
        Some((&"soak", rest)) => soak::main(rest),
        Some((&"fuzz", rest)) => fuzz::main(rest),
        Some((&"docs", rest)) => docs::main(rest),
        Some((&"asan", rest)) => asan::main(rest),
        Some((&"templates", rest)) => templates::main(rest),
        Some((&"door", rest)) => door::main(rest),
        Some((&"golden", rest)) => golden::main(rest),
        Some((&"verify", rest)) => verify::main(rest),
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

/// Why a task failed.
enum Failure {
    /// The command line is wrong; says what is wrong.
    Usage(String),
    /// The task could not do its work; says why.
    Task(String),
    /// Tests failed. The closing line has reported them.
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

/// The result of a task.
type Outcome = Result<(), Failure>;
