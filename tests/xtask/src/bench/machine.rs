//! The time and the machine of the measurement.

use super::{Bench, report};
use crate::run;

/// Prints when, on what and how the bench measures. With `--save`, the report's file begins here.
pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let date = output_of("date", &["-u", "+%Y-%m-%d"]);
    let time = output_of("date", &["-u", "+%H:%M UTC"]);
    let commit = output_of("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    if bench.save {
        report::save_as(&format!("{date}-{commit}"))?;
    }
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = if bench.huge { "hugepages" } else { "ordinary pages" };
    report::line(&format!("# Measured {date}, commit {commit}\n"));
    report::line(&format!(
        "- {time}; {}, {cores} cores, Linux {}",
        model.trim_matches([' ', '\t', ':']),
        output_of("uname", &["-r"])
    ));
    report::line(&format!(
        "- medians of {} rounds of {} s in turn, in brackets the lowest and the highest; memory of both sides from {memory}",
        bench.rounds, bench.seconds
    ));
    print_load("at the beginning");
    Ok(())
}

/// Prints how busy the machine is.
pub(super) fn print_load(when: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split(' ').next().unwrap_or_default();
    report::line(&format!("- processes ready to run {when}, mean of a minute: {minute}"));
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = run::command(program, args).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
