//! `cargo xtask fuzz`: libFuzzer over each target of `tests/fuzz`, from its committed corpus on.
//!
//! It needs no other toolchain: rustc's own options put the coverage counters in. The code under test is
//! safe Rust, so a panic is all that can be found, and no sanitizer is needed to see one.

use std::path::PathBuf;
use std::process::Command;

use crate::soak::WHOLE;
use crate::tally::Tally;
use crate::{Failure, Outcome, run};

const HOST: &str = "x86_64-unknown-linux-gnu";
const COUNTERS: &str = "-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn main(args: &[&str]) -> Outcome {
    let seconds = seconds(args)?;
    let targets = targets()?;
    let mut tally = Tally::default();
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        tally.skipped = targets.len() as u64;
    } else {
        let folder = run::target().join("fuzz");
        run::must(
            run::cargo(&["build", "--release", "--target", HOST])
                .args(["--manifest-path", "tests/fuzz/libfuzzer/Cargo.toml"])
                .env("RUSTFLAGS", COUNTERS)
                .env("CARGO_TARGET_DIR", &folder),
        )?;
        for target in &targets {
            let outcome = fuzz(&folder, target, seconds);
            tally += match outcome {
                Ok(()) => Tally { passed: 1, ..Tally::default() },
                Err(why) => {
                    println!(
                        "{target}: {why}; what it found becomes a test as a file in tests/fuzz/corpus/{target}"
                    );
                    Tally::BROKEN
                }
            };
        }
    }
    println!("\n{tally}");
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Counted) }
}

/// Seconds for each target: as given, half an hour in a soak, else 20.
fn seconds(args: &[&str]) -> Result<u64, Failure> {
    match args {
        [] if std::env::var_os(WHOLE).is_some() => Ok(1800),
        [] => Ok(20),
        ["--seconds", count] => count
            .parse()
            .map_err(|_| Failure::Usage(format!("--seconds {count}: a number is wanted"))),
        [other, ..] => Err(Failure::usage("fuzz", other, "--seconds N")),
    }
}

/// The folders of the corpora are named by the targets.
fn targets() -> Result<Vec<String>, String> {
    let folder = run::top().join("tests/fuzz/corpus");
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(told)? {
        names.push(entry.map_err(told)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What libFuzzer cannot be built without.
fn missing() -> Option<String> {
    let has = run::succeeds(&mut run::command("c++", &["--version"]));
    (!has).then(|| "there is no C++ compiler for libFuzzer".to_owned())
}

fn fuzz(folder: &std::path::Path, target: &str, seconds: u64) -> Result<(), String> {
    let found = folder.join("corpus").join(target);
    let artifacts = folder.join("artifacts");
    for folder in [&found, &artifacts] {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let program: PathBuf = folder.join(HOST).join("release/drivebay-libfuzzer");
    let mut command = Command::new(program);
    command
        .current_dir(run::top())
        .env("DRIVEBAY_FUZZ", target)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=8192", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=0"])
        .args(["-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/{target}-", artifacts.display()))
        .arg(found)
        .arg(format!("tests/fuzz/corpus/{target}"));
    run::must(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_a_number_and_every_target_has_a_corpus() {
        assert!(matches!(seconds(&["--seconds", "3"]), Ok(3)));
        assert!(matches!(seconds(&["--seconds", "x"]), Err(Failure::Usage(_))));
        assert!(matches!(seconds(&["3"]), Err(Failure::Usage(_))));
        assert_eq!(targets().map(|targets| targets.len()), Ok(7));
    }
}
