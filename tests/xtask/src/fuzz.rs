//! `cargo xtask fuzz`: runs libFuzzer on each target of `tests/fuzz`, starting with its committed corpus.
//!
//! It needs no other toolchain: options of rustc insert the coverage counters. The code under test is safe Rust, so a
//! panic is the only fault to find, and no sanitizer is needed.
//!
//! [`target`] runs each target in turn, a minute at a time, until each has had its share. [`merge`] writes the archives of
//! the corpora, with new inputs.

mod merge;
mod target;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use drivebay_fuzz_archive::{Corpora, write_files};

use crate::soak::WHOLE;
use crate::tally::Tally;
use crate::{Failure, Outcome, run};
use target::{Clock, Run};

/// Counters on every edge and a hook at every comparison. Neither may be merged with another.
const COUNTERS: &str = "-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
const ALLOWED: &str = "--seconds N, --wall, --jobs N, --only TARGET, --merge";
/// Seconds for each target if no `--seconds` is given.
const SAMPLED: u64 = 10;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    /// The share of each target, in seconds.
    seconds: u64,
    /// Which clock counts these seconds.
    clock: Clock,
    /// Number of targets that run at once.
    jobs: usize,
    only: Option<String>,
    /// Runs nothing, and adds new inputs to the corpora.
    merge: bool,
}

pub(crate) fn main(args: &[&str]) -> Outcome {
    let options = parse(args)?;
    let tally = if options.merge { merge::all(&chosen(&options)?)? } else { fuzz(&options)? };
    println!("\n{tally}");
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Counted) }
}

/// The short form that `cargo xtask test` runs: two targets at once, by the clock.
pub(crate) fn sample() -> Result<Tally, String> {
    fuzz(&Options { seconds: SAMPLED, clock: Clock::Wall, jobs: 2, only: None, merge: false })
}

fn parse(args: &[&str]) -> Result<Options, Failure> {
    let seconds = if std::env::var_os(WHOLE).is_some() { 1800 } else { SAMPLED };
    let mut options = Options { seconds, clock: Clock::Cpu, jobs: 1, only: None, merge: false };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().copied().ok_or_else(|| Failure::usage("fuzz", arg, ALLOWED));
        match arg {
            "--wall" => options.clock = Clock::Wall,
            "--merge" => options.merge = true,
            "--seconds" => options.seconds = number(arg, value()?)?,
            "--jobs" => options.jobs = number(arg, value()?)?,
            "--only" => options.only = Some(value()?.to_owned()),
            _ => return Err(Failure::usage("fuzz", arg, ALLOWED)),
        }
    }
    Ok(options)
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::Usage(format!("{flag} {text}: a number is required")))
}

fn fuzz(options: &Options) -> Result<Tally, String> {
    let targets = chosen(options)?;
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(Tally { skipped: targets.len() as u64, ..Tally::default() });
    }
    for target in &targets {
        write_files(&seeds(target), &corpora().all(target)?)?;
    }
    let program = build()?;
    let waiting: VecDeque<Run> = targets.into_iter().map(Run::new).collect();
    let waiting = Mutex::new(waiting);
    let take = || waiting.lock().ok()?.pop_front();
    let put_back = |run| waiting.lock().map(|mut waiting| waiting.push_back(run)).is_ok();
    let tallies: Vec<Tally> = thread::scope(|threads| {
        let job = || {
            let mut tally = Tally::default();
            while let Some(mut run) = take() {
                match run.go_on(&program, options.seconds, options.clock) {
                    Ok(true) => drop(put_back(run)),
                    ended => tally += tell(&run, ended),
                }
            }
            tally
        };
        let jobs: Vec<_> = (0..options.jobs.max(1)).map(|_| threads.spawn(job)).collect();
        jobs.into_iter().map(|job| job.join().unwrap_or(Tally::BROKEN)).collect()
    });
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total += tally);
    Ok(total)
}

fn tell(run: &Run, ended: Result<bool, String>) -> Tally {
    println!("{run}");
    match ended {
        Ok(_) => Tally { passed: 1, ..Tally::default() },
        Err(why) => {
            let target = &run.target;
            println!(
                "{target}: {why}; to make the input a test, copy its file to tests/fuzz/crashes/{target}, with a name \
                 that says what it is"
            );
            Tally::BROKEN
        }
    }
}

/// Builds the program with counters and returns its path.
fn build() -> Result<PathBuf, String> {
    run::must(
        run::cargo(&["build", "--quiet", "--release", "--target", run::HOST])
            .args(["--manifest-path", "tests/fuzz/libfuzzer/Cargo.toml"])
            .env("RUSTFLAGS", COUNTERS)
            .env("CARGO_TARGET_DIR", folder()),
    )?;
    Ok(folder().join(run::HOST).join("release/drivebay-libfuzzer"))
}

/// The folder for the build, unpacked corpora, new inputs and logs.
fn folder() -> PathBuf {
    run::target().join("fuzz")
}

fn chosen(options: &Options) -> Result<Vec<String>, String> {
    let mut targets = corpora().targets()?;
    if let Some(only) = &options.only {
        let all = targets.join(", ");
        targets.retain(|target| target == only);
        if targets.is_empty() {
            return Err(format!("--only {only}: there is no such target; allowed: {all}"));
        }
    }
    Ok(targets)
}

fn corpora() -> Corpora {
    Corpora::new(&run::top().join("tests/fuzz"))
}

/// The folder with the unpacked corpus of a target.
fn seeds(target: &str) -> PathBuf {
    folder().join("seeds").join(target)
}

/// The part that libFuzzer needs and this machine lacks.
fn missing() -> Option<String> {
    let has = run::succeeds(&mut run::command("c++", &["--version"]));
    (!has).then(|| "there is no C++ compiler for libFuzzer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_and_a_target_is_one_that_has_a_corpus() {
        let options = parse(&["--seconds", "3", "--jobs", "2", "--only", "plugin_file", "--wall"]);
        let options = options.unwrap_or_else(|_| panic!("they are allowed"));
        assert_eq!((options.seconds, options.clock, options.jobs), (3, Clock::Wall, 2));
        assert_eq!(chosen(&options), Ok(vec!["plugin_file".to_owned()]));
        for args in [&["--seconds", "x"][..], &["--seconds"], &["3"], &["--jobs", "-1"]] {
            assert!(matches!(parse(args), Err(Failure::Usage(_))), "{args:?}");
        }
        let unknown = parse(&["--only", "nothing"]).unwrap_or_else(|_| panic!("it is a name"));
        assert!(chosen(&unknown).is_err_and(|why| why.contains("nvme_tcp_connection")));
        let made = include_str!("../../fuzz/src/lib.rs").matches("Target { name: ").count();
        assert_eq!(corpora().targets().map(|targets| targets.len()), Ok(made));
    }

    #[test]
    fn the_page_on_testing_names_every_target() {
        let page = include_str!("../../../docs/testing.md");
        for target in corpora().targets().unwrap_or_else(|why| panic!("{why}")) {
            assert!(page.contains(&format!("`{target}`")), "it does not name {target}");
        }
    }
}
