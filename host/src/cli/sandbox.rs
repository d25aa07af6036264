//! The flags that confine a host.

use clap::Args;
use std::path::PathBuf;

/// The rights that a host gives up at its start.
#[derive(Args, Clone, Debug, Default)]
pub struct Sandbox {
    /// Use only the system's files, the host's own and those of --sandbox-path, and drop
    /// capabilities
    #[arg(long)]
    pub sandbox: bool,
    /// With --sandbox: file, device or folder that may be opened and changed; may be given several times
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    pub sandbox_path: Vec<PathBuf>,
}
