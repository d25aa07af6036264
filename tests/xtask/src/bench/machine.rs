//! When and on what it was measured.

use super::Bench;
use crate::run;

pub(super) fn print(bench: &Bench) {
    let date = told("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let commit = told("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = if bench.huge { "hugepages" } else { "ordinary pages" };
    println!("\n## Measured {date}, commit {commit}\n");
    println!(
        "- {}, {cores} cores, Linux {}",
        model.trim_matches([' ', '\t', ':']),
        told("uname", &["-r"])
    );
    println!(
        "- medians of {} rounds of {} s in turn, in brackets the lowest and the highest; memory of both sides from {memory}",
        bench.rounds, bench.seconds
    );
    print_load("at the beginning");
}

/// How much else there was to do.
pub(super) fn print_load(when: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split(' ').next().unwrap_or_default();
    println!("- processes ready to run {when}, mean of a minute: {minute}");
}

fn told(program: &str, args: &[&str]) -> String {
    let output = run::command(program, args).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
