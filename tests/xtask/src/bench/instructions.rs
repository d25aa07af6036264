//! Instructions per I/O, by callgrind, and what else a run under it tells: where they are,
//! allocations, system calls, atomic read-modify-writes.
//!
//! All of it is the difference of two runs of different length, so what starting and stopping costs
//! drops out.

use super::case::{self, CASES, Case, DEPTHS};
use super::profile::Profile;
use super::server::Folder;
use super::{Bench, table};
use crate::run;
use std::collections::BTreeMap;
use std::process::Command;

/// I/O of the two runs whose difference counts.
const SHORT: u64 = 20_000;
const LONG: u64 = 120_000;
/// Functions that allocate or free.
const ALLOCATORS: [&str; 7] =
    ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "memalign"];

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    if !run::succeeds(Command::new("valgrind").arg("--version")) {
        return Err("valgrind is not installed".to_owned());
    }
    let mut deepest = Vec::new();
    let columns = DEPTHS.map(|depth| format!("depth {depth}"));
    let columns: Vec<&str> = ["case"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    table::begin("Instructions per 4 KiB I/O, the generator's own included", &columns);
    for case in &CASES {
        let mut cells = vec![case.name.to_owned()];
        for depth in DEPTHS {
            let profile = per_io(bench, case, depth)?;
            cells.push(format!("{:.0}", profile.total("Ir")));
            if DEPTHS.last() == Some(&depth) {
                deepest.push((case, profile));
            }
        }
        table::row(cells);
    }
    table::begin(
        "Per I/O at depth 128, counted by callgrind (plugins and their libraries included)",
        &["case", "allocations and frees", "system calls", "atomic read-modify-writes"],
    );
    for (case, profile) in &deepest {
        let counts = [
            profile.calls_of(&ALLOCATORS),
            profile.total("sysCount"),
            profile.total("Ge"),
        ];
        let cells = counts.map(|count| format!("{count:.4}"));
        table::row([case.name.to_owned()].into_iter().chain(cells));
    }
    stages(&deepest);
    Ok(())
}

/// Where the instructions are.
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

fn by_stage(profile: &Profile) -> BTreeMap<String, f64> {
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
    if after("host/core/src/bdev/load/").is_some() {
        return "generator".to_owned();
    }
    for (folder, name) in [
        ("host/core/src/bdev/", "bus: "),
        ("host/core/src/", "host: "),
        ("sdk/src/", "sdk: "),
        ("plugins/", "plugin: "),
        ("plugin-api/src/", "abi: "),
    ] {
        if let Some(rest) = after(folder) {
            return format!("{name}{rest}");
        }
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

/// A run of `ios` I/O.
fn count(bench: &Bench, case: &Case, depth: u32, ios: u64) -> Result<Profile, String> {
    let folder = Folder::new()?;
    let out = folder.0.join("callgrind.out");
    let perf = bench.perf(&case.arguments(depth));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--collect-bus=yes", "--collect-systime=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(perf.get_program()).args(perf.get_args()).args(["-n", &ios.to_string()]);
    case::output(&mut valgrind)?;
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(Profile::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_part_that_its_folder_is() {
        for (file, part) in [
            ("/top/host/core/src/bdev/load/worker.rs", "generator"),
            ("/top/host/core/src/bdev/submit.rs", "bus: submit.rs"),
            ("host/core/src/reactor/poller.rs", "host: reactor/poller.rs"),
            ("/top/plugins/bdev/null/src/lib.rs", "plugin: bdev/null/src/lib.rs"),
            ("/usr/lib/libc.so.6", "libc: libc.so.6"),
        ] {
            assert_eq!(stage(file), part);
        }
    }
}
