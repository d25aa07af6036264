//! `drivebay plugin`.

use super::{Check, New};
use clap::Subcommand;
use std::path::PathBuf;

/// Look at plugins, check, sign and verify them, begin new ones.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
exit code: 0 done, 1 the file is no plugin, may not be loaded or is not well signed, 2 usage")]
pub enum Plugin {
    /// List the plugins on the search path; runs nothing of them
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
    /// Begin a plugin: write a project that builds outside of Drivebay's source
    New(New),
    /// Tell what a plugin's file says; runs nothing of it
    Inspect {
        /// The file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load a plugin in a child and hold it against what the ABI asks
    Check(Box<Check>),
    /// Make a key: FILE, to be kept secret, and FILE.pub, for the folder of trusted keys
    Keygen {
        /// Where the private key goes; must not be there yet
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
    /// Tell whether trusted keys signed plugins
    Verify {
        /// Folder of trusted keys; those in its folder `revoked` are not
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// The plugins
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}
