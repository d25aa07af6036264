//! `cargo xtask bench` measures speed and prints tables in Markdown. If a build of the reference is
//! given, the bench measures that, too. `docs/performance.md` explains the figures.
//!
//! ```text
//! bench ─> parts, one file and one or two tables each ─> alternating rounds: ours, reference, ours, …
//!            rates, lvol, raid, aio, cores drivebay perf, bdevperf, fio        (bus)
//!            instructions                  callgrind                           (bus)
//!            target                        callgrind, perf                     (NVMe/TCP)
//!            nvmf, idle, growth            servers and initiators              (NVMe/TCP)
//!            initiator                     drivebay perf, bdevperf, servers     (NVMe/TCP)
//!            iscsi                         servers, iscsi-perf                 (iSCSI)
//!            vhost                         servers, drivebay perf              (vhost-user)
//!            nbd                           servers, nbdcopy                    (NBD)
//!            messages, start, saturated    servers and calls
//! ```
//!
//! Instruction counts do not depend on the load of the machine. Times do, so each is the median of
//! alternating rounds, with its spread, and no test depends on a figure of the bench.

mod aio;
mod awake;
mod case;
mod client;
mod cores;
pub(crate) mod crowd;
pub(crate) mod echo;
mod growth;
mod idle;
mod initiator;
mod instructions;
mod iscsi;
mod load;
mod lvol;
mod machine;
mod messages;
mod nbd;
mod nvmf;
mod process;
mod profile;
mod raid;
mod rates;
mod reference;
mod report;
mod ring;
mod samples;
mod saturated;
mod server;
mod start;
mod table;
mod target;
mod vhost;

use crate::{Failure, Outcome, run};
use reference::Reference;
use std::path::PathBuf;
use std::process::Command;

const ALLOWED: &str = "--reference DIR, --counted DIR, --rounds N, --seconds N, --folder DIR, --all, --long, --awake, --save, --only PART[,PART], \
    and parts: instructions, rates, lvol, raid, aio, cores, messages, target, nvmf, initiator, ring, start, idle, saturated, growth, iscsi, vhost, nbd";

/// The packages that the bench builds.
const PACKAGES: [&str; 16] = [
    "drivebay",
    "drivebay-null",
    "drivebay-malloc",
    "drivebay-passthru",
    "drivebay-aio",
    "drivebay-lvol",
    "drivebay-raid",
    "drivebay-nvme",
    "drivebay-nvmf",
    "drivebay-nvmf-tcp",
    "drivebay-iscsi",
    "drivebay-vhost",
    "drivebay-bdev-virtio",
    "drivebay-nbd",
    "drivebay-probe",
    "drivebay-nvme-load",
];

type Part = fn(&Bench) -> Result<(), String>;

/// The parts by name, in their order.
const PARTS: [(&str, Part); 18] = [
    ("instructions", instructions::print),
    ("rates", rates::print),
    ("lvol", lvol::print),
    ("raid", raid::print),
    ("aio", aio::print),
    ("cores", cores::print),
    ("messages", messages::print),
    ("target", target::print),
    ("nvmf", nvmf::print),
    ("initiator", initiator::print),
    ("ring", ring::print),
    ("start", start::print),
    ("idle", idle::print),
    ("saturated", saturated::print),
    ("growth", growth::print),
    ("iscsi", iscsi::print),
    ("vhost", vhost::print),
    ("nbd", nbd::print),
];

/// The side that a figure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Reference,
}

impl Side {
    /// The name in the tables.
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Reference => "reference",
        }
    }
}

/// The options of a run.
struct Bench {
    reference: Option<Reference>,
    /// A build of the reference that callgrind can run.
    counted: Option<Reference>,
    rounds: usize,
    /// Whether to measure the rows that take long, too.
    long: bool,
    /// Whether to write the tables to a file in `docs/measurements`, too.
    save: bool,
    /// Whether to measure `idle` a second time with the first core kept from halting, which changes a
    /// setting of the machine.
    awake: bool,
    /// Length of one run.
    seconds: u32,
    /// The folder for the files of `aio` and `lvol`.
    folder: Option<PathBuf>,
    /// Whether both sides take their memory from hugepages.
    huge: bool,
    /// Names of the parts.
    parts: Vec<String>,
}

pub(crate) fn main(args: &[&str]) -> Outcome {
    let bench = parse(args)?;
    let mut build = vec!["build", "--release"];
    for package in PACKAGES {
        build.extend(["-p", package]);
    }
    run::must(&mut run::cargo(&build))?;
    machine::print(&bench)?;
    for (name, part) in PARTS {
        if bench.parts.iter().any(|wanted| wanted == name)
            && let Err(why) = part(&bench)
        {
            report::line(&format!("\n{name}: not measured: {why}"));
        }
    }
    machine::print_load("at the end");
    Ok(())
}

impl Bench {
    /// The sides that take turns.
    fn sides(&self) -> Vec<Side> {
        let theirs = self.reference.is_some().then_some(Side::Reference);
        [Side::Ours].into_iter().chain(theirs).collect()
    }

    /// The sides that `growth` measures: the reference only with `--long`.
    fn growing(&self) -> Vec<Side> {
        if self.long { self.sides() } else { vec![Side::Ours] }
    }

    fn reference(&self) -> Result<&Reference, String> {
        self.reference.as_ref().ok_or_else(|| "no --reference is given".to_owned())
    }

    /// Our generator for the bus. It takes its memory from hugepages if the reference does.
    fn perf(&self, arguments: &[String]) -> Command {
        let mut perf = Command::new(case::program());
        perf.args(arguments);
        if !self.huge {
            perf.arg("--no-huge");
        }
        perf
    }
}

fn parse(args: &[&str]) -> Result<Bench, Failure> {
    let huge = reference::hugepages_are_there();
    let mut bench = Bench {
        reference: None,
        counted: None,
        rounds: 5,
        long: false,
        awake: false,
        save: false,
        seconds: 1,
        folder: None,
        huge,
        parts: Vec::new(),
    };
    let is_part = |name: &str| PARTS.iter().any(|(part, _)| *part == name);
    let mut rest = args.iter();
    while let Some(&arg) = rest.next() {
        let bad = || Failure::usage("bench", arg, ALLOWED);
        let mut value = || rest.next().copied().ok_or_else(bad);
        match arg {
            "--reference" => bench.reference = Some(Reference::at(&PathBuf::from(value()?), huge)?),
            "--counted" => bench.counted = Some(Reference::counted(&PathBuf::from(value()?))?),
            "--rounds" => {
                let rounds = value()?.parse().ok().filter(|rounds| *rounds > 0);
                bench.rounds = rounds.ok_or_else(bad)?;
            }
            "--seconds" => {
                let seconds = value()?.parse().ok().filter(|seconds| *seconds > 0);
                bench.seconds = seconds.ok_or_else(bad)?;
            }
            "--folder" => bench.folder = Some(PathBuf::from(value()?)),
            "--only" => {
                let names: Vec<String> = value()?.split(',').map(str::to_owned).collect();
                if !names.iter().all(|name| is_part(name)) {
                    return Err(bad());
                }
                bench.parts.extend(names);
            }
            "--long" => bench.long = true,
            "--awake" => bench.awake = true,
            "--save" => bench.save = true,
            "--all" => bench.parts.extend(PARTS.map(|(name, _)| name.to_owned())),
            _ => match arg.strip_prefix("--").filter(|name| is_part(name)) {
                Some(name) => bench.parts.push(name.to_owned()),
                None => return Err(bad()),
            },
        }
    }
    if bench.parts.is_empty() {
        bench.parts = PARTS.map(|(name, _)| name.to_owned()).into();
    }
    Ok(bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name_and_all_run_without_a_choice() {
        let of = |args: &[&str]| parse(args).map(|bench| bench.parts.join(" ")).ok();
        assert_eq!(of(&["--rates", "--rounds", "7"]).as_deref(), Some("rates"));
        assert_eq!(of(&["--only", "aio,nvmf"]).as_deref(), Some("aio nvmf"));
        assert_eq!(of(&[]), of(&["--all"]));
        assert_eq!(of(&["--only", "aio,fast"]), None);
        assert_eq!(of(&["--rounds", "0"]), None);
        assert_eq!(of(&["--reference"]), None);
        assert_eq!(of(&["--fast"]), None);
    }

    #[test]
    fn the_help_and_the_page_on_performance_name_every_part() {
        let page = include_str!("../../../docs/performance.md");
        for (name, _) in PARTS {
            assert!(ALLOWED.contains(name), "the help does not name {name}");
            assert!(page.contains(&format!("| `{name}` |")), "the page does not name {name}");
        }
    }
}
