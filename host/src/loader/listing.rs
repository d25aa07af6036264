//! What `plugin_list` and `drivebay plugin list` report about a plugin.

use super::manifest::Manifest;
use super::search::{Candidate, Search, file_name};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The state of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its file was found, but it may not be loaded.
    Found,
    /// It may be loaded.
    Allowed,
    /// Its copy is checked.
    Staged,
    /// It is mapped and initialized.
    Loaded,
    /// It is serving.
    Serving,
    /// It is stopping.
    Quiescing,
    /// It could not start, or it panicked.
    Failed,
    /// It has stopped; its library stays mapped.
    Retired,
}

/// One plugin, as `plugin_list` reports it.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// The name.
    pub name: String,
    /// The version; empty when it cannot be read.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The state.
    pub state: State,
    /// The reason why the plugin is in this state; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The path of its file.
    pub path: PathBuf,
    /// What it can be loaded for.
    pub provides: Vec<String>,
    /// What must be present before it is loaded.
    pub requires: Vec<String>,
    /// The SHA-256 of the copy that is mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The fingerprint of the trusted key that signed it, if the policy checks signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// The permissions that it requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// The permissions that it got.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<String>,
}

/// All files on the search path that are plugins, and unreadable files that may have been plugins.
pub(super) fn on_path(search: &mut Search) -> Vec<Listing> {
    let plugins: Vec<Listing> = search.scan().iter().map(listing).collect();
    let unreadable = search.unreadable().map(|(path, why)| Listing {
        reason: Some(why.to_owned()),
        ..unknown(file_name(path), path)
    });
    plugins.into_iter().chain(unreadable).collect()
}

/// The listing of a candidate that is not loaded.
pub(super) fn listing(candidate: &Candidate) -> Listing {
    let manifest = candidate.inspection.manifest.as_ref();
    let listing = manifest.map_or_else(
        || unknown(candidate.name(), &candidate.path),
        |manifest| of_manifest(manifest, &candidate.path),
    );
    match &candidate.refusal {
        None => listing,
        Some(refusal) => {
            Listing { state: State::Found, reason: Some(refusal.to_string()), ..listing }
        }
    }
}

/// The listing of a file whose manifest cannot be read.
fn unknown(name: String, path: &Path) -> Listing {
    Listing {
        name,
        version: String::new(),
        kind: String::new(),
        state: State::Found,
        reason: None,
        path: path.to_owned(),
        provides: Vec::new(),
        requires: Vec::new(),
        sha256: None,
        signed_by: None,
        permissions: Vec::new(),
        granted: Vec::new(),
    }
}

pub(super) fn of_manifest(manifest: &Manifest, path: &Path) -> Listing {
    Listing {
        name: manifest.name.clone(),
        version: manifest.version.to_string(),
        kind: manifest.kind.clone(),
        state: State::Allowed,
        reason: None,
        path: path.to_owned(),
        provides: manifest.provides.clone(),
        requires: manifest.requires.clone(),
        sha256: None,
        signed_by: None,
        permissions: manifest.permissions.clone(),
        granted: Vec::new(),
    }
}
