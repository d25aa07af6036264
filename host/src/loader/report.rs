//! The output of `drivebay plugin`: text for people, JSON for programs.

use super::error::{Error, Result as LoaderResult};
use super::inspect::{Inspection, inspect_path};
use super::listing::{Listing, on_path};
use super::search::Search;
use super::trust::Policy;
use super::trust::key::{Fingerprint, KeyFolder, PrivateKey, public_file};
use super::trust::signature::{self, Verdict, sidecar_path};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The plugins on the search path, with `folders` before the default ones. Runs none of their code.
#[must_use]
pub fn list(folders: &[PathBuf], policy: Policy) -> Vec<Listing> {
    let mut search = Search::new(Search::default_folders(folders), Arc::new(policy));
    on_path(&mut search)
}

/// A table of plugins with one line for each.
#[must_use]
pub fn list_text(list: &[Listing]) -> String {
    let mut text = String::new();
    let mut last_reason = None;
    for plugin in list {
        let state = format!("{:?}", plugin.state).to_lowercase();
        let (name, version) = (&plugin.name, &plugin.version);
        let (kind, path) = (&plugin.kind, plugin.path.display());
        let _ = writeln!(text, "{name:<16} {version:<10} {kind:<10} {state:<9} {path}");
        // Report a folder that others may write to in one line, not in one line for each of its files.
        if let Some(reason) = plugin.reason.as_ref().filter(|reason| last_reason != Some(*reason)) {
            let _ = writeln!(text, "    {reason}");
        }
        last_reason = plugin.reason.as_ref();
    }
    text
}

/// An inspection as JSON.
#[must_use]
pub fn inspection_json(inspection: &Inspection) -> Value {
    // Strings and numbers can always be encoded.
    serde_json::to_value(inspection).unwrap_or_else(|e| json!({ "error": e.to_string() }))
}

/// An inspection as text.
#[must_use]
pub fn inspection_text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{label:<12} {value}");
        }
    };
    if let Some(manifest) = &inspection.manifest {
        let (major, minor) = manifest.abi;
        line("name", &manifest.name);
        line("version", &manifest.version.to_string());
        line("kind", &manifest.kind);
        line("abi", &format!("{major}.{minor}, needs {major}.{}", manifest.needs_minor));
        line("vendor", &manifest.vendor);
        line("licence", &manifest.license);
        line("language", &manifest.lang);
        line("panic", &manifest.panic);
        line("modules", &manifest.modules.join(", "));
        line("provides", &manifest.provides.join(", "));
        line("requires", &manifest.requires.join(", "));
        line("permissions", &manifest.permissions.join(", "));
    }
    line("build id", inspection.build_id.as_deref().unwrap_or_default());
    line("libraries", &inspection.needed.join(", "));
    line("runpath", &inspection.runpath.join(", "));
    if inspection.nodelete {
        line("unmapping", "never: it is marked NODELETE");
    } else if !inspection.unique_symbols.is_empty() {
        line("unmapping", "never: it has unique symbols (build with -fno-gnu-unique)");
    }
    if inspection.refusals.is_empty() {
        line("verdict", "may be loaded");
    }
    for reason in &inspection.refusals {
        line("refused", reason);
    }
    text
}

/// Tells the user what to do with a new key.
#[must_use]
pub fn keygen_text(file: &Path, fingerprint: &Fingerprint) -> String {
    let (private, public) = (file.display(), public_file(file));
    format!(
        "fingerprint  {fingerprint}\nprivate key  {private} (keep it secret; it signs)\n\
         public key   {} (put it into the folder of trusted keys)\n",
        public.display()
    )
}

/// Signs plugins. Returns one line for each.
///
/// # Errors
/// The first file that is not a plugin, cannot be read or cannot be signed.
pub fn sign(files: &[PathBuf], key: &PrivateKey) -> LoaderResult<String> {
    let mut text = String::new();
    for file in files {
        inspect_path(file)
            .map_err(|not| Error::new(libc::ENOEXEC, format!("{}: {not}", file.display())))?;
        let sidecar = signature::sign(file, key)?;
        let _ = writeln!(text, "{}", sidecar.display());
    }
    Ok(text)
}

/// Reports for each plugin whether a trusted key signed it, and for all whether every signature is
/// good.
///
/// # Errors
/// A file or the keys cannot be read.
pub fn verify(files: &[PathBuf], keys: &KeyFolder) -> LoaderResult<(String, bool)> {
    let (mut text, mut all_good) = (String::new(), true);
    for file in files {
        let verdict = signature::verify(file, &sidecar_path(file), keys)?;
        all_good &= matches!(verdict, Verdict::Good { .. });
        let _ = writeln!(text, "{}: {verdict}", file.display());
    }
    Ok((text, all_good))
}
