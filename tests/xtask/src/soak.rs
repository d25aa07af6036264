//! `cargo xtask soak` runs in full the tests that `cargo xtask test` only samples, and prints one closing line with all
//! counts.
//!
//! [`PARTS`] has one entry for each kind of test. The tests have a long form, which an environment variable selects.

use std::process::Command;
use std::time::Instant;

use crate::tally::Tally;
use crate::test::tell_where;
use crate::{Failure, Outcome, prepare, run};

/// The environment variable that selects the long form.
pub(crate) const WHOLE: &str = "DRIVEBAY_SOAK";

/// Part of the names of the tests that cut a guest's power.
const POWER_CUTS: &str = "power_cut";

/// A kind of test that has a long form.
struct Part {
    name: &'static str,
    /// A description of the long form, for the closing lines.
    what: &'static str,
    command: fn() -> Command,
}

const PARTS: &[Part] = &[
    Part {
        name: "nvme",
        what: "1,000 connects, 300 drops of connections in each of 15 states, 200 rounds of every malformed PDU, \
               1,000 namespaces added and removed under load, silent sockets until they are closed",
        command: nvme,
    },
    Part {
        name: "mixed",
        what: "half an hour of verified I/O over NVMe/TCP while namespaces, disks, plugins and connections come and go, \
               and resident memory at its end",
        command: mixed,
    },
    Part {
        name: "sim",
        what: "fifty million I/O over 10,000 seeds of the bus's simulation",
        command: sim,
    },
    Part {
        name: "loom",
        what: "interleavings of the reactor's lock-free parts with up to four switches",
        command: loom,
    },
    Part {
        name: "plugins",
        what: "100,000 golden plugins with bytes changed, and a million inputs for each parser of a plugin's files",
        command: plugins,
    },
    Part {
        name: "lvol",
        what: "60 kills of a host with thin volumes, snapshots and clones under verified load",
        command: lvol,
    },
    Part {
        name: "raid",
        what: "65,000 power cuts of arrays of all levels, and 1,000 seeds of random faults",
        command: raid,
    },
    Part {
        name: "power",
        what: "150 files fsynced over NVMe/TCP, checked at 100 cut points",
        command: power,
    },
    Part {
        name: "guests",
        what: "every test in a guest except the power cuts; some run only here: iSCSI units that come and go, dm-multipath, \
               packed rings, ext4 on thin volumes",
        command: guests,
    },
    Part {
        name: "vhost",
        what: "100 kills of the host under verified load on split and packed rings; each time the restarted host resumes the requests in flight",
        command: vhost,
    },
    Part {
        name: "fuzz",
        what: "half an hour of processor time for every fuzz target",
        command: fuzz,
    },
];

pub(crate) fn main(args: &[&str]) -> Outcome {
    let chosen = chosen(args)?;
    run::must(&mut run::cargo(&["build", "--workspace"]))?;
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for part in chosen {
        let began = Instant::now();
        let tally = run::counted((part.command)().env(WHOLE, "1"))?;
        let seconds = began.elapsed().as_secs_f64();
        lines.push(format!("{}: {tally} ({seconds:.0} s): {}", part.name, part.what));
        total += tally;
    }
    println!("\n{}\n{total}", lines.join("\n"));
    if total.failed == 0 && total.passed > 0 { Ok(()) } else { Err(Failure::Counted) }
}

/// The parts with the given names; all parts if no name is given.
fn chosen(names: &[&str]) -> Result<Vec<&'static Part>, Failure> {
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        let allowed: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        return Err(Failure::usage("soak", unknown, &format!("names of {}", allowed.join(", "))));
    }
    let is_chosen = |part: &&Part| names.is_empty() || names.contains(&part.name);
    Ok(PARTS.iter().filter(is_chosen).collect())
}

/// The tests run one after another, because each of them loads the machine.
fn nvme() -> Command {
    let args =
        ["test", "--package", "drivebay-nvme-tests", "--test", "nvme", "--no-fail-fast", "--"];
    let mut command = run::cargo(&args);
    tell_where(command.arg("--test-threads=1"));
    command
}

fn mixed() -> Command {
    let args =
        ["test", "--package", "drivebay-nvme-tests", "--test", "mixed", "--no-fail-fast", "--"];
    let mut command = run::cargo(&args);
    tell_where(command.args(["--test-threads=1", "--nocapture"]));
    command
}

fn sim() -> Command {
    run::cargo(&["test", "--package", "drivebay-sim", "--test", "seeds"])
}

fn loom() -> Command {
    run::cargo(&["test", "--package", "drivebay-loom"])
}

fn plugins() -> Command {
    let mut command = run::cargo(&["test", "--package", "drivebay", "--no-fail-fast", "--"]);
    command.args(["any_", "whatever_became_of_a_file"]).env("PROPTEST_CASES", "1000000");
    tell_where(&mut command);
    command
}

fn lvol() -> Command {
    python(&["--only", "killed_again", "tests/e2e"])
}

fn raid() -> Command {
    run::cargo(&["test", "--package", "drivebay-raid", "--", "power_cut", "model", "--nocapture"])
}

/// Needs the guest's kernel, which `cargo xtask prepare` or `cargo xtask test` installs.
fn power() -> Command {
    python(&["--only", POWER_CUTS, "tests/guest/tests"])
}

/// Needs the guest's kernel. Leaves out the power cuts, which [`power`] runs.
fn guests() -> Command {
    python(&["--but", POWER_CUTS, "tests/guest/tests"])
}

fn vhost() -> Command {
    python(&["--only", "killed_host", "tests/e2e"])
}

/// Runs Python tests. `args` are those of `tests/e2e/run.py`.
fn python(args: &[&str]) -> Command {
    let mut command = run::command(prepare::venv().join("bin/python"), &["tests/e2e/run.py"]);
    tell_where(command.args(args));
    command
}

fn fuzz() -> Command {
    run::cargo(&["xtask", "fuzz", "--jobs", "2"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_names_all_parts_run_and_an_unknown_one_is_refused() {
        assert_eq!(chosen(&[]).map(|parts| parts.len()).unwrap_or_default(), PARTS.len());
        assert!(chosen(&["nvme"]).is_ok_and(|parts| parts.len() == 1));
        assert!(matches!(chosen(&["nvme", "fast"]), Err(Failure::Usage(_))));
    }

    #[test]
    fn the_page_on_testing_names_every_part() {
        let page = include_str!("../../../docs/testing.md");
        for Part { name, .. } in PARTS {
            assert!(page.contains(&format!("cargo xtask soak {name}")), "it does not name {name}");
        }
    }
}
