//! Counts per I/O, by callgrind: instructions, in total and by part of the code, allocations,
//! system calls, and atomic read-modify-writes.
//!
//! Each count is the difference of two runs of different length, so the costs of start and stop
//! cancel out.

use super::case::{self, CASES, Case};
use super::profile::Profile;
use super::reference::Reference;
use super::samples::NOTHING;
use super::server::Folder;
use super::{Bench, lvol, raid, rates, table};
use crate::run;
use std::collections::BTreeMap;
use std::process::Command;

/// Numbers of I/Os of the two runs.
const SHORT: u64 = 5_000;
const LONG: u64 = 55_000;
/// The same for system calls, which are counted at full speed.
const STRACED: (u64, u64) = (100_000, 2_100_000);
const DEPTHS: [u32; 2] = [1, 128];
/// Functions that allocate or free.
pub(super) const ALLOCATORS: [&str; 7] =
    ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "memalign"];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    if !run::succeeds(Command::new("valgrind").arg("--version")) {
        return Err("valgrind is not installed".to_owned());
    }
    let mut deepest = Vec::new();
    table::begin(
        "Instructions per 4 KiB I/O, the generator's own included",
        &["case", "depth 1", "depth 128", "reference, depth 1", "reference, depth 128"],
    );
    for case in CASES.iter().chain(&lvol::CASES).chain(&raid::COUNTED) {
        let mut cells = vec![case.name.to_owned()];
        for depth in DEPTHS {
            let profile = per_io(bench, case, depth)?;
            cells.push(format!("{:.0}", profile.total("Ir")));
            if DEPTHS.last() == Some(&depth) {
                deepest.push((case, profile));
            }
        }
        for depth in DEPTHS {
            let counted = match &bench.counted {
                Some(counted) if case.is_of_both() => of_reference(counted, case, depth)?,
                _ => None,
            };
            cells.push(counted.map_or_else(|| NOTHING.to_owned(), |count| format!("{count:.0}")));
        }
        table::row(cells);
    }
    table::begin(
        "Per I/O at depth 128, plugins and their libraries included",
        &["case", "allocations and frees", "system calls", "atomic read-modify-writes"],
    );
    for (case, profile) in &deepest {
        let system_calls = system_calls_per_io(bench, case)?;
        table::row([
            case.name.to_owned(),
            format!("{:.4}", profile.calls_of(&ALLOCATORS).abs()),
            system_calls.map_or_else(|| NOTHING.to_owned(), |calls| format!("{calls:.4}")),
            format!("{:.4}", profile.total("Ge")),
        ]);
    }
    stages(&deepest);
    Ok(())
}

/// Prints the instructions by part of the code.
fn stages(deepest: &[(&Case, Profile)]) {
    let mut columns = vec!["part of the code"];
    columns.extend(deepest.iter().map(|(case, _)| case.name));
    table::begin("Instructions per I/O at depth 128 by part of the code", &columns);
    let of_cases: Vec<BTreeMap<String, f64>> =
        deepest.iter().map(|(_, profile)| by_stage(profile)).collect();
    let mut names: Vec<&String> = of_cases.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    for name in names {
        let cells: Vec<f64> =
            of_cases.iter().map(|of| of.get(name).copied().unwrap_or_default()).collect();
        if cells.iter().any(|count| *count >= 0.5) {
            let cells = cells.into_iter().map(|count| format!("{count:.0}"));
            table::row([name.clone()].into_iter().chain(cells));
        }
    }
}

pub(super) fn by_stage(profile: &Profile) -> BTreeMap<String, f64> {
    let mut stages = BTreeMap::new();
    for (file, events) in &profile.files {
        let count = events.get("Ir").copied().unwrap_or_default();
        *stages.entry(stage(file)).or_default() += count;
    }
    stages
}

/// The part of the code that a source file belongs to.
fn stage(file: &str) -> String {
    let file = file.split("/./").last().unwrap_or(file);
    let after = |folder: &str| file.split_once(folder).map(|(_, rest)| rest);
    if after("host/core/src/load/").is_some() {
        return "generator".to_owned();
    }
    for (folder, name) in [
        ("host/core/src/bdev/", "bus: "),
        ("host/core/src/", "host: "),
        ("sdk/src/", "sdk: "),
        ("plugins/", "plugin: "),
        ("sdk/spec/", "spec: "),
        ("plugin-api/src/", "abi: "),
    ] {
        if let Some(rest) = after(folder) {
            return format!("{name}{rest}");
        }
    }
    if after("/library/").is_some() {
        return "Rust's library".to_owned();
    }
    if let Some(rest) = after("/registry/src/") {
        return format!("crate: {}", rest.split('/').nth(1).unwrap_or(rest));
    }
    let name = file.rsplit('/').next().unwrap_or(file);
    if file.contains(".so") || name.ends_with(".S") || name.ends_with(".c") {
        format!("libc: {name}")
    } else {
        format!("other: {name}")
    }
}

fn per_io(bench: &Bench, case: &Case, depth: u32) -> Result<Profile, String> {
    let long = count(bench, case, depth, LONG)?;
    let short = count(bench, case, depth, SHORT)?;
    Ok(long.per_io(&short, (LONG - SHORT) as f64))
}

/// A run of `ios` I/Os.
fn count(bench: &Bench, case: &Case, depth: u32, ios: u64) -> Result<Profile, String> {
    let folder = Folder::new()?;
    let out = folder.0.join("callgrind.out");
    let perf = bench.perf(&case.arguments(depth));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--collect-bus=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(perf.get_program()).args(perf.get_args()).args(["-n", &ios.to_string()]);
    case::output(&mut valgrind)?;
    let text =
        std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(Profile::parse(&text))
}

/// The same with the reference's generator, which only has a time limit: two runs of different
/// length.
fn of_reference(counted: &Reference, case: &Case, depth: u32) -> Result<Option<f64>, String> {
    let mut runs = [(0.0, 0.0); 2];
    for (run, seconds) in runs.iter_mut().zip(["1", "3"]) {
        let folder = Folder::new()?;
        let (bdev, calls) = case.calls();
        let config = folder.0.join("config.json");
        std::fs::write(&config, rates::config(&calls).to_string())
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let generator = counted.bdevperf();
        valgrind.arg(generator.get_program()).args(generator.get_args());
        valgrind.args(["-m", "0x1", "-q", &depth.to_string(), "-o", "4096", "-t", seconds]);
        valgrind.args(["-w", case.pattern, "-T", &bdev, "-c"]).arg(&config);
        let output = valgrind.output().map_err(|error| format!("valgrind: {error}"))?;
        let reported = rates::ios(&String::from_utf8_lossy(&output.stdout))
            .zip(collected(&String::from_utf8_lossy(&output.stderr)));
        let Some(reported) = reported else { return Ok(None) };
        *run = reported;
    }
    let [short, long] = runs;
    Ok(Some((long.1 - short.1) / (long.0 - short.0)))
}

/// The number in `==1== Collected : 123`.
pub(super) fn collected(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// System calls per I/O, counted by strace; `None` if it is not installed.
fn system_calls_per_io(bench: &Bench, case: &Case) -> Result<Option<f64>, String> {
    if !run::succeeds(Command::new("strace").arg("--version")) {
        return Ok(None);
    }
    let short = system_calls(bench, case, STRACED.0)?;
    let long = system_calls(bench, case, STRACED.1)?;
    Ok(Some((long - short).max(0.0) / (STRACED.1 - STRACED.0) as f64))
}

fn system_calls(bench: &Bench, case: &Case, ios: u64) -> Result<f64, String> {
    let folder = Folder::new()?;
    let out = folder.0.join("strace.out");
    let perf = bench.perf(&case.arguments(128));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&out);
    strace.arg(perf.get_program()).args(perf.get_args()).args(["-n", &ios.to_string()]);
    case::output(&mut strace)?;
    let text =
        std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let total = text.lines().find_map(|line| line.trim().strip_suffix("total"));
    let calls = total.and_then(|line| line.trim().parse().ok());
    calls.ok_or_else(|| format!("strace printed no total: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_stands_in_callgrinds_last_words() {
        let text = "==7== \n==7== Events    : Ir\n==7== Collected : 110240441\n==7== \n";
        assert_eq!(collected(text), Some(110_240_441.0));
        assert_eq!(collected("==7== Events : Ir"), None);
    }

    #[test]
    fn a_file_belongs_to_the_part_that_its_folder_is() {
        for (file, part) in [
            ("/top/host/core/src/load/worker.rs", "generator"),
            ("/top/host/core/src/bdev/submit.rs", "bus: submit.rs"),
            ("host/core/src/reactor/poller.rs", "host: reactor/poller.rs"),
            ("/top/plugins/bdev/null/src/lib.rs", "plugin: bdev/null/src/lib.rs"),
            ("/usr/lib/libc.so.6", "libc: libc.so.6"),
            ("/home/.cargo/registry/src/index/rustix-1.0/src/net.rs", "crate: rustix-1.0"),
            ("/rustc/abc/library/core/src/cell.rs", "Rust's library"),
        ] {
            assert_eq!(stage(file), part);
        }
    }
}
