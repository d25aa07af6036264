//! What `plugin_list` and `drivebay plugin list` show of a plugin.

use super::manifest::Manifest;
use super::search::{Candidate, Search, file_name};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How far a plugin has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its file was found, and may not be loaded.
    Found,
    /// It may be loaded.
    Allowed,
    /// Its copy is checked.
    Staged,
    /// It is mapped and was initialised.
    Loaded,
    /// It serves.
    Serving,
    /// It is stopping.
    Quiescing,
    /// It did not come up, or panicked.
    Failed,
    /// It has ended; its library stays mapped.
    Retired,
}

/// One plugin, as `plugin_list` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Name.
    pub name: String,
    /// Version, empty when it cannot be read.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// How far it has come.
    pub state: State,
    /// Why it is not further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its file.
    pub path: PathBuf,
    /// What it can be loaded for.
    pub provides: Vec<String>,
    /// What must be there before it.
    pub requires: Vec<String>,
    /// SHA-256 of the copy that is mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Fingerprint of the trusted key that signed it, where the policy looks at signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// Permissions that it wants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// Those that it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<String>,
}

/// All that lies on the search path and is a plugin, or may have been one and cannot be read.
pub(super) fn on_path(search: &mut Search) -> Vec<Listing> {
    let plugins: Vec<Listing> = search.scan().iter().map(listing).collect();
    let unreadable = search.unreadable().map(|(path, why)| Listing {
        reason: Some(why.to_owned()),
        ..unknown(file_name(path), path)
    });
    plugins.into_iter().chain(unreadable).collect()
}

/// A candidate as it is listed before anybody loads it.
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

/// A file whose manifest cannot be read.
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
