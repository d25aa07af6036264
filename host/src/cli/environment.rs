//! The flags of every command that starts a host: plugins, cores and memory.

use clap::{Args, ValueEnum};
use drivebay_core::env::CpuSet;
use drivebay_core::env::pci::Address;
use drivebay_core::env::pci::permit::Permit;
use drivebay_core::reactor;
use std::path::PathBuf;

/// What a host runs with. The defaults are those of the flags.
#[derive(Args, Clone, Debug, Default)]
pub struct Environment {
    /// Folder to search for plugins first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// Policy for plugins: names, signatures, permissions [default: no further rules]
    #[arg(long, value_name = "FILE")]
    pub plugin_policy: Option<PathBuf>,
    /// Plugin to load at start, by name or path; may be given several times
    #[arg(long, value_name = "NAME")]
    pub load: Vec<String>,
    /// Cores: a mask (0x3) or a list ([0,2-3]) [default: one core]
    #[arg(short = 'm', long, value_name = "MASK", value_parser = cores)]
    pub cpumask: Option<CpuSet>,
    /// How idle cores wait: adaptive sleeps, polled spins
    #[arg(long, value_enum, default_value = "adaptive", hide_possible_values = true)]
    pub mode: Mode,
    /// Limit of DMA memory, in MiB or with suffix K, M or G [default: none]
    #[arg(short = 's', long, value_name = "SIZE", value_parser = mem_size_bytes)]
    pub mem_size: Option<u64>,
    /// Allow disks in RAM that together exceed the machine's memory
    #[arg(long)]
    pub overcommit: bool,
    /// Use ordinary pages for DMA memory even if there are hugepages
    #[arg(long)]
    pub no_huge: bool,
    /// Let plugins open only this PCI device; may be given several times
    #[arg(short = 'A', long, value_name = "ADDRESS", value_parser = pci_address)]
    pub pci_allowed: Vec<Address>,
    /// Do not let plugins open this PCI device; may be given several times
    #[arg(short = 'B', long, value_name = "ADDRESS", value_parser = pci_address, conflicts_with = "pci_allowed")]
    pub pci_blocked: Vec<Address>,
    /// Do not let plugins open any PCI device
    #[arg(short = 'u', long, conflicts_with_all = ["pci_allowed", "pci_blocked"])]
    pub no_pci: bool,
}

impl Environment {
    /// Which PCI devices the host may open.
    #[must_use]
    pub fn pci(&self) -> Permit {
        match (self.pci_allowed.as_slice(), self.pci_blocked.as_slice()) {
            _ if self.no_pci => Permit::Only(Vec::new()),
            ([], []) => Permit::All,
            ([], blocked) => Permit::Except(blocked.to_vec()),
            (allowed, _) => Permit::Only(allowed.to_vec()),
        }
    }
}

/// What idle reactors do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They spin.
    Polled,
    /// They spin for a short while, then sleep.
    #[default]
    Adaptive,
}

impl From<Mode> for reactor::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Polled => Self::Polled,
            Mode::Adaptive => Self::Adaptive,
        }
    }
}

fn cores(text: &str) -> Result<CpuSet, String> {
    CpuSet::parse(text).map_err(|error| error.message().to_owned())
}

pub(super) fn pci_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: drivebay_core::Error| error.message().to_owned())
}

fn mem_size_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "K" | "KB" => 10,
        "" | "M" | "MB" => 20,
        "G" | "GB" => 30,
        _ => return Err("allowed: a number with suffix K, M or G, MiB without".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "allowed: a number of MiB, such as 1024")?;
    number.checked_mul(1 << shift).ok_or_else(|| "allowed: less than 16 EiB".into())
}
