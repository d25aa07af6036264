//! Where the bench writes: standard output and, with `--save`, a file in `docs/measurements`.

use crate::run;
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

static SAVED: OnceLock<File> = OnceLock::new();

/// Makes [`line()`] also write to the new file `docs/measurements/NAME.md`. Fails if the file exists, so that no run overwrites the
/// figures of another one.
pub(super) fn save_as(name: &str) -> Result<(), String> {
    let folder = run::top().join("docs/measurements");
    let path = folder.join(format!("{name}.md"));
    let file = std::fs::create_dir_all(&folder)
        .and_then(|()| File::create_new(&path))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    SAVED.set(file).map_err(|_| "the report is saved already".to_owned())
}

/// Prints a line of the report.
pub(super) fn line(text: &str) {
    println!("{text}");
    if let Some(mut file) = SAVED.get()
        && let Err(error) = writeln!(file, "{text}")
    {
        eprintln!("docs/measurements: {error}");
    }
}
