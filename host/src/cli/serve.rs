//! `drivebay serve`.

use super::ignored::Ignored;
use clap::{Args, ValueEnum};
use drivebay_core::env::CpuSet;
use drivebay_core::reactor;
use std::path::PathBuf;

/// Flags of `drivebay serve`: the reference's application flags with their meaning, and own ones.
#[derive(Args, Clone, Debug)]
#[command(
    version,
    disable_version_flag = true,
    after_help = "\
Without -c and --state the host starts empty. SPDK's other application flags are accepted and do nothing.
exit code: 0 ended by SIGTERM or SIGINT, 1 could not start or not end in order, 2 usage"
)]
pub struct Serve {
    /// RPC socket [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH")]
    pub rpc_socket: Option<PathBuf>,
    /// Have no RPC socket
    #[arg(long)]
    pub no_rpc_server: bool,
    /// Comma-separated list of the only methods that may be called
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    pub rpcs_allowed: Option<Vec<String>>,
    /// Wait for framework_start_init before anything but options can be set
    #[arg(long, conflicts_with = "no_rpc_server")]
    pub wait_for_rpc: bool,
    /// Configuration to start with, as save_config prints it
    #[arg(short = 'c', long, visible_alias = "json", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Start in spite of errors in the configuration, with a warning for each
    #[arg(long)]
    pub json_ignore_init_errors: bool,
    /// Keep the configuration in FILE: loaded at start, saved after every change
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Folder to search for plugins first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// What plugins may be loaded: names, signatures, permissions [default: no further rules]
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
    /// Take DMA memory from ordinary pages even when there are hugepages
    #[arg(long)]
    pub no_huge: bool,
    /// Write all log lines of a component or plugin, or of all; may be given several times
    #[arg(short = 'L', long, value_name = "FLAG")]
    pub logflag: Vec<String>,
    /// Write no log lines below WARNING
    #[arg(long)]
    pub silence_noticelog: bool,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// What is taken for the sake of scripts.
    #[command(flatten)]
    pub ignored: Ignored,
}

impl Serve {
    /// A host without a socket that says nothing below warnings: for a command that needs disks.
    #[must_use]
    pub fn unreachable() -> Self {
        Self {
            rpc_socket: None,
            no_rpc_server: true,
            rpcs_allowed: None,
            wait_for_rpc: false,
            config: None,
            json_ignore_init_errors: false,
            state: None,
            plugin_dir: Vec::new(),
            plugin_policy: None,
            load: Vec::new(),
            cpumask: None,
            mode: Mode::Adaptive,
            mem_size: None,
            no_huge: false,
            logflag: Vec::new(),
            silence_noticelog: true,
            version: None,
            ignored: Ignored::default(),
        }
    }
}

/// How idle reactors wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They spin.
    Polled,
    /// They spin for a short while, then sleep.
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

pub(super) fn cores(text: &str) -> Result<CpuSet, String> {
    CpuSet::parse(text).map_err(|error| error.message)
}

pub(super) fn mem_size_bytes(text: &str) -> Result<u64, String> {
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
