//! A built source tree of SPDK, the reference.

use std::path::{Path, PathBuf};
use std::process::Command;

/// If at least this many hugepages of 2 MiB are free, both sides use them. Otherwise both use
/// ordinary pages.
const HUGEPAGES_MIN: u64 = 700;

/// Paths of its programs.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    top: PathBuf,
    huge: bool,
}

impl Reference {
    pub(super) fn at(top: &Path, huge: bool) -> Result<Self, String> {
        let reference = Self { top: top.to_owned(), huge };
        for program in [BDEVPERF, TARGET, NVME_PERF] {
            if !top.join(program).is_file() {
                return Err(format!("--reference {}: there is no {program}", top.display()));
            }
        }
        Ok(reference)
    }

    /// A tree built without AVX-512. Only its generator is used, under callgrind.
    pub(super) fn counted(top: &Path) -> Result<Self, String> {
        let found = top.join(BDEVPERF).is_file();
        let missing = || format!("--counted {}: there is no {BDEVPERF}", top.display());
        found.then(|| Self { top: top.to_owned(), huge: false }).ok_or_else(missing)
    }

    /// Returns the same tree with ordinary pages for its programs.
    pub(super) fn without_hugepages(&self) -> Self {
        Self { huge: false, ..self.clone() }
    }

    /// Its load generator for bdevs.
    pub(super) fn bdevperf(&self) -> Command {
        self.app(BDEVPERF)
    }

    /// Its server.
    pub(super) fn target(&self) -> Command {
        self.app(TARGET)
    }

    /// Its load generator for NVMe, on the second core. It is the initiator for both sides.
    pub(super) fn nvme_perf(&self) -> Command {
        let mut command = Command::new(self.top.join(NVME_PERF));
        command.args(["-c", "0x2", "-L"]);
        if !self.huge {
            command.args(["--no-huge", "-s", "512"]);
        }
        command
    }

    /// A program for messages between two threads, which SPDK's own tree does not have. Its
    /// options: `-C` core of the second thread, `-q` messages at once, `-t` seconds. It prints JSON
    /// with `ns`, the time of a round trip.
    pub(super) fn message_perf(&self) -> Option<Command> {
        let program = "test/thread/message_perf/message_perf";
        self.top.join(program).is_file().then(|| self.app(program))
    }

    fn app(&self, program: &str) -> Command {
        let mut command = Command::new(self.top.join(program));
        // The held server has locked the same core.
        command.arg("--disable-cpumask-locks");
        if !self.huge {
            command.args(["--no-huge", "-s", "2048"]);
        }
        command
    }
}

const BDEVPERF: &str = "build/examples/bdevperf";
const TARGET: &str = "build/bin/spdk_tgt";
const NVME_PERF: &str = "build/bin/spdk_nvme_perf";

/// Whether there are enough free hugepages for both sides.
pub(super) fn hugepages_are_there() -> bool {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    free.is_some_and(|free| free >= HUGEPAGES_MIN)
}
