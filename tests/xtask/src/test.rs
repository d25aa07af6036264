//! `cargo xtask test` runs every test, and prints one closing line with all counts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::prepare::{self, Missing, Need};
use crate::tally::Tally;
use crate::{Failure, Outcome, docs, fuzz, run};

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    no_guest: bool,
    only: Option<String>,
}

pub(crate) fn main(args: &[&str]) -> Outcome {
    let options = parse(args)?;
    let mut needs = vec![Need::Build, Need::EndToEnd];
    if !options.no_guest {
        needs.push(Need::Guest);
    }
    let missing = prepare::prepare(&needs);
    // Nobody reads the output of CI, so a test that was left out by accident would count as one that ran.
    if let (Some(reason), true) = (missing.reason(Need::Guest), std::env::var_os("CI").is_some()) {
        return Err(format!("CI leaves nothing out. {reason}").into());
    }

    run::must(&mut run::cargo(&["build", "--workspace"]))?;
    let mut total = Tally::default();
    for step in [unit, second_belt, doc, reference, readers, end_to_end, guest] {
        let began = Instant::now();
        let tally = step(&options, &missing)?;
        println!("-- {tally} ({:.0} s)", began.elapsed().as_secs_f64());
        total += tally;
    }
    println!("\n{total}");
    if total.failed == 0 && total.passed > 0 { Ok(()) } else { Err(Failure::Counted) }
}

fn parse(args: &[&str]) -> Result<Options, Failure> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match (arg, options.only.is_some()) {
            ("--no-guest", _) => options.no_guest = true,
            ("--only", false) => match args.next() {
                Some(filter) if !filter.is_empty() => options.only = Some((*filter).to_owned()),
                _ => return Err(Failure::Usage("--only needs a part of a test's name".to_owned())),
            },
            _ => return Err(Failure::usage("test", arg, "--no-guest, --only TEXT once")),
        }
    }
    Ok(options)
}

/// Unit and integration tests of all crates, by cargo-nextest if it is installed.
fn unit(options: &Options, _missing: &Missing) -> Result<Tally, String> {
    let mut command = if run::succeeds(&mut run::cargo(&["nextest", "--version"])) {
        run::cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass"])
    } else {
        run::cargo(&["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"])
    };
    command.args(options.only.as_deref());
    let mut tally = run::counted(tell_where(&mut command))?;
    if options.only.is_some() {
        // nextest counts the tests that the filter left out as skipped.
        tally.skipped = 0;
    }
    Ok(tally)
}

/// The comparison of the ABI's structs with abi_stable. It is a separate step, so that nothing else is built
/// with this feature.
fn second_belt(options: &Options, _missing: &Missing) -> Result<Tally, String> {
    if options.only.is_some() {
        return Ok(Tally::default());
    }
    let mut command = run::cargo(&["test", "-p", "drivebay-abi-tests", "--test", "layout"]);
    run::counted(command.args(["--features", "abi-stable", "abi_stable_"]))
}

/// Checks that the committed RPC documentation is what `cargo xtask docs` generates.
fn reference(options: &Options, _missing: &Missing) -> Result<Tally, String> {
    if options.only.is_some() { Ok(Tally::default()) } else { docs::check(&programs()) }
}

/// A short run of libFuzzer on every parser of bytes from outside.
fn readers(options: &Options, _missing: &Missing) -> Result<Tally, String> {
    if options.only.is_some() { Ok(Tally::default()) } else { fuzz::sample() }
}

fn doc(options: &Options, _missing: &Missing) -> Result<Tally, String> {
    let mut command = run::cargo(&["test", "--doc", "--workspace", "--quiet", "--no-fail-fast"]);
    command.arg("--").args(options.only.as_deref());
    run::counted(&command)
}

fn end_to_end(options: &Options, missing: &Missing) -> Result<Tally, String> {
    python(&["--jobs=2", "tests/e2e"], options, missing.reason(Need::EndToEnd))
}

fn guest(options: &Options, missing: &Missing) -> Result<Tally, String> {
    let left_out = options.no_guest.then(|| "--no-guest".to_owned());
    let skip = left_out.or_else(|| missing.reason(Need::Guest));
    // A guest has one processor, and a test machine has at least two.
    python(&["--jobs=2", "tests/guest/tests"], options, skip)
}

/// Runs Python tests. `args` are those of `tests/e2e/run.py`. If `skip` has a reason, each test counts as
/// skipped.
fn python(args: &[&str], options: &Options, skip: Option<String>) -> Result<Tally, String> {
    let venv = prepare::venv().join("bin/python");
    let python = if venv.exists() { venv } else { PathBuf::from("python3") };
    let mut command = run::command(python, &["tests/e2e/run.py"]);
    if let Some(only) = &options.only {
        command.arg(format!("--only={only}"));
    }
    if let Some(reason) = skip {
        command.arg(format!("--skip={reason}"));
    }
    run::counted(tell_where(command.args(args)))
}

/// The folder of the programs and plugins that `cargo build` made.
fn programs() -> PathBuf {
    run::target().join("debug")
}

/// Sets the environment in which a test runner finds the host, the plugins and the client.
pub(crate) fn tell_where(command: &mut Command) -> &mut Command {
    let built: &Path = &programs();
    command
        .env("DRIVEBAY_BIN", built.join("drivebay"))
        .env("DRIVEBAY_PLUGIN_DIR", built)
        .env("SPDK_RPC", prepare::venv().join("bin/spdk-rpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let options = parse(&["--only", "connect", "--no-guest"]).unwrap_or_default();
        assert_eq!(options, Options { no_guest: true, only: Some("connect".to_owned()) });
    }

    #[test]
    fn unknown_repeated_and_empty_options_are_refused() {
        for args in [&["--fast"][..], &["--only"], &["--only", ""], &["--only", "a", "--only", "b"]]
        {
            assert!(matches!(parse(args), Err(Failure::Usage(_))), "{args:?}");
        }
    }
}
