//! `drivebay lvol`.

use super::serve::socket;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Check and repair stores of logical volumes.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
exit code: 0 sound, 1 something is damaged or leaked, 2 wrong usage, 3 the disk cannot be read or repaired
A file or device must not be in use by a server; a disk of a server is named by its bdev.")]
pub enum Lvol {
    /// Read a whole store and report what is wrong; writes nothing
    Check(Store),
    /// Report what can be repaired, or repair it with --write; repairs only what has one right
    /// answer
    Repair {
        /// The store
        #[command(flatten)]
        store: Store,
        /// Write the repairs
        #[arg(long)]
        write: bool,
    },
}

/// A store.
#[derive(Args, Clone, Debug)]
pub struct Store {
    /// A file, a device, or a bdev of the running server
    pub disk: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Socket of the server [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH", value_parser = socket)]
    pub rpc_socket: Option<PathBuf>,
}
