//! The configuration: calls in a file, in the format of SPDK's `save_config`.
//!
//! - [`Document`] is the content of the file; [`Load`] makes its calls at start.
//! - [`save`] asks the host and its plugins for the calls that restore the current state.
//! - [`StateFile`] is the file of `--state`, which the host rewrites after every change.
#![forbid(unsafe_code)]

mod document;
mod load;
mod order;
pub mod save;
mod state;
mod text;

pub use document::{Document, Entry, Section};
pub use load::{Halt, Load};
pub use state::{KeptFile, StateFile};

use std::path::Path;

/// The configuration to start with: the file of `-c`, or that of `--state` once it has content.
///
/// # Errors
/// One line that names the flag and the file, and says what is wrong.
pub fn starting_document(
    config: Option<&Path>,
    state: Option<&KeptFile>,
) -> Result<Option<Document>, String> {
    let kept = match state {
        Some(state) => state.read().map_err(|why| format!("--state {why}"))?,
        None => None,
    };
    match (config, state.zip(kept)) {
        (Some(given), Some((state, _))) => Err(format!(
            "--config {} and --state {}: the state file already contains a configuration; give only one of the two",
            given.display(),
            state.path().display()
        )),
        (Some(path), None) => read("--config", path).map(Some),
        (None, Some((state, content))) => parse("--state", state.path(), &content).map(Some),
        (None, None) => Ok(None),
    }
}

/// Reads the file of the flag `flag`.
///
/// # Errors
/// One line that names the flag and the file, and says what is wrong.
pub fn read(flag: &str, path: &Path) -> Result<Document, String> {
    let file =
        std::fs::read(path).map_err(|error| format!("{flag} {}: {error}", path.display()))?;
    parse(flag, path, &file)
}

fn parse(flag: &str, path: &Path, file: &[u8]) -> Result<Document, String> {
    let document = text::json_of(file).and_then(|text| Document::parse(&text));
    document.map_err(|why| format!("{flag} {}: not a JSON configuration: {why}", path.display()))
}
