//! Configuration: calls kept in a file, in the form that SPDK's `save_config` prints.
//!
//! - [`Document`] is the file's content; [`Load`] makes its calls at start.
//! - [`save`] asks the host and its plugins for the calls that make them again.
//! - [`StateFile`] is the file of `--state`, rewritten after every change.
#![forbid(unsafe_code)]

mod document;
mod load;
pub mod save;
mod state;

pub use document::{Document, Entry, Section};
pub use load::{Halt, Load};
pub use state::StateFile;

use crate::cli::Serve;
use std::path::Path;

/// What the host starts with: the file of `-c`, or that of `--state` once there is one.
///
/// # Errors
/// A line that names the flag and the file.
pub fn starting_document(options: &Serve) -> Result<Option<Document>, String> {
    let kept = options.state.as_deref().filter(|path| path.exists());
    match (options.config.as_deref(), kept) {
        (Some(given), Some(kept)) => Err(format!(
            "--config {} and --state {}: the state file exists already; give one of the two",
            given.display(),
            kept.display()
        )),
        (Some(path), None) => read("--config", path).map(Some),
        (None, Some(path)) => read("--state", path).map(Some),
        (None, None) => Ok(None),
    }
}

/// Reads the file that `flag` names.
///
/// # Errors
/// A line that names the flag and the file.
pub fn read(flag: &str, path: &Path) -> Result<Document, String> {
    let failed = |why: String| format!("{flag} {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    Document::parse(&text).map_err(|why| failed(format!("no JSON configuration: {why}")))
}
