//! `drivebay plugin`.

use super::{Check, New};
use clap::Subcommand;
use std::path::PathBuf;

/// List, check, sign and verify plugins, and start new ones.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
exit code: 0 done, 1 the file is not a plugin, may not be loaded or has no good signature, 2 wrong usage")]
pub enum Plugin {
    /// List the plugins on the search path; runs none of their code
    List {
        /// Folder to search first; may be given several times
        #[arg(long, value_name = "DIR")]
        plugin_dir: Vec<PathBuf>,
        /// The operator's policy, as for `serve`
        #[arg(long, value_name = "FILE")]
        plugin_policy: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a new plugin: write a project that builds outside of Drivebay's source
    New(New),
    /// Show what a plugin's file declares; runs none of its code
    Inspect {
        /// The file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load a plugin in a child process and check it against the ABI
    Check(Box<Check>),
    /// Create a key: FILE, which you keep secret, and FILE.pub, for the folder of trusted keys
    Keygen {
        /// File for the private key; must not exist yet
        file: PathBuf,
    },
    /// Sign plugins: writes FILE.sig beside each
    Sign {
        /// The private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The plugins
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Report whether trusted keys signed plugins
    Verify {
        /// Folder of trusted keys; keys in its subfolder `revoked` are not trusted
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// The plugins
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}
