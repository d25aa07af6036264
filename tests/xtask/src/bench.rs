//! `cargo xtask bench`: the speed of the bus over the plugins built here, and beside it that of the
//! reference's own generator when a build of it is at hand.
//!
//! Instructions per I/O are the difference of two counted runs of different length, so what starting
//! and stopping costs drops out. They do not depend on what else the machine does; rates do, so
//! these are medians of runs in turn.

mod case;
mod instructions;
mod rates;

use crate::{Failure, Outcome, run};
use std::path::PathBuf;

const ALLOWED: &str = "--reference DIR, --rounds N, --seconds N, --instructions, --rates";

/// What is asked for.
struct Options {
    /// Top of a built work tree of the reference.
    reference: Option<PathBuf>,
    rounds: usize,
    seconds: u32,
    instructions: bool,
    rates: bool,
}

pub(crate) fn main(args: &[&str]) -> Outcome {
    let options = parse(args)?;
    let mut build = vec!["build", "--release", "-p", "drivebay"];
    for package in case::PACKAGES {
        build.extend(["-p", package]);
    }
    run::must(&mut run::cargo(&build))?;
    if options.instructions {
        instructions::print()?;
    }
    if options.rates {
        rates::print(options.reference.as_deref(), options.rounds, options.seconds)?;
    }
    Ok(())
}

fn parse(args: &[&str]) -> Result<Options, Failure> {
    let mut options =
        Options { reference: None, rounds: 5, seconds: 2, instructions: false, rates: false };
    let mut rest = args.iter();
    while let Some(&arg) = rest.next() {
        let bad = || Failure::usage("bench", arg, ALLOWED);
        let mut value = || rest.next().copied().ok_or_else(bad);
        match arg {
            "--reference" => options.reference = Some(value()?.into()),
            "--rounds" => {
                let rounds = value()?.parse().ok().filter(|rounds| *rounds > 0);
                options.rounds = rounds.ok_or_else(bad)?;
            }
            "--seconds" => {
                let seconds = value()?.parse().ok().filter(|seconds| *seconds > 0);
                options.seconds = seconds.ok_or_else(bad)?;
            }
            "--instructions" => options.instructions = true,
            "--rates" => options.rates = true,
            _ => return Err(bad()),
        }
    }
    if !options.instructions && !options.rates {
        (options.instructions, options.rates) = (true, true);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_both_parts_run() {
        let of = |args: &[&str]| parse(args).map(|o| (o.instructions, o.rates)).ok();
        assert_eq!(of(&[]), Some((true, true)));
        assert_eq!(of(&["--rates", "--rounds", "7"]), Some((false, true)));
        assert_eq!(of(&["--rounds", "0"]), None);
        assert_eq!(of(&["--reference"]), None);
        assert_eq!(of(&["--fast"]), None);
    }
}
