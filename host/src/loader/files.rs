//! The files of plugins: find, judge, copy, verify and map them. All of it blocks for as long as
//! the disks take, and none of it needs the app thread: see [`Background`](super::background).

use super::error::{Error, Result};
use super::listing::{Listing, on_path};
use super::manifest::Manifest;
use super::open::Door;
use super::search::{Candidate, Search, Stamp};
use super::stage::Stage;
use super::trust::Policy;
use semver::VersionReq;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folders from which plugins are loaded, and the folder for their copies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folders to search, in this order; see
    /// [`Search::default_folders`](super::search::Search::default_folders).
    pub folders: Vec<PathBuf>,
    /// The host's runtime folder.
    pub runtime: PathBuf,
    /// The operator's policy.
    pub policy: Policy,
}

/// Any thread may use it.
pub(super) struct Files {
    policy: Arc<Policy>,
    search: Mutex<Search>,
    stage: Stage,
    /// The result of the last scan of the search path.
    latest: Mutex<Found>,
}

/// The plugins on the search path.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The best plugin of each name.
    pub(super) best: Vec<Candidate>,
    /// Every file that is a plugin, or may have been one.
    pub(super) listing: Vec<Listing>,
}

/// A plugin whose library is mapped and checked. None of its entry points was called yet.
pub(super) struct Prepared {
    pub(super) manifest: Manifest,
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) sha256: String,
    pub(super) signer: Option<String>,
    pub(super) granted: Vec<String>,
    pub(super) door: Door,
}

impl Files {
    /// Creates the staging folder.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let policy = Arc::new(settings.policy);
        Ok(Self {
            stage: Stage::new(&settings.runtime)?,
            search: Mutex::new(Search::new(settings.folders, Arc::clone(&policy))),
            policy,
            latest: Mutex::default(),
        })
    }

    /// Scans the search path again.
    pub(super) fn scan(&self) -> Found {
        let mut search = self.search();
        let listing = on_path(&mut search);
        let found = Found { best: search.best_of_each_name(), listing };
        self.latest().clone_from(&found);
        found
    }

    /// The result of the last [`scan`](Self::scan).
    pub(super) fn known(&self) -> Found {
        self.latest().clone()
    }

    /// As [`Search::by_name`].
    ///
    /// # Errors
    /// As for [`Search::by_name`].
    pub(super) fn by_name(&self, name: &str, version: &VersionReq) -> Result<Candidate> {
        self.search().by_name(name, version)
    }

    /// As [`Search::by_provision`].
    ///
    /// # Errors
    /// As for [`Search::by_provision`].
    pub(super) fn by_provision(&self, provision: &str) -> Result<Option<Candidate>> {
        self.search().by_provision(provision)
    }

    /// Whether the policy lets a plugin of this name and version load.
    ///
    /// # Errors
    /// `EPERM` with the member of the policy that forbids it.
    pub(super) fn check_manifest(&self, manifest: &Manifest) -> Result<()> {
        self.policy.check_manifest(manifest)
    }

    /// Copies a plugin, checks the copy and maps it.
    ///
    /// # Errors
    /// What forbids it (owner, mode, notes, signature), or the error of the dynamic loader.
    pub(super) fn prepare(&self, candidate: &Candidate) -> Result<Prepared> {
        let staged = self.stage.copy(&candidate.path)?;
        // The file may have been replaced since it was inspected. Only the copy counts.
        let manifest = staged.inspection.allowed()?.clone();
        if manifest.name != candidate.name() {
            return Err(Error::new(libc::EAGAIN, "its file was replaced by another plugin's"));
        }
        self.policy.check_manifest(&manifest)?;
        self.policy.check_libraries(&staged.inspection)?;
        let signer = self.policy.check_signature(&candidate.path, &staged.path)?;
        let granted = self.policy.granted(&manifest, signer.as_ref());
        Ok(Prepared {
            door: Door::open(&staged)?,
            manifest,
            path: candidate.path.clone(),
            stamp: candidate.stamp,
            sha256: staged.sha256,
            signer: signer.map(|key| key.to_string()),
            granted,
        })
    }

    fn search(&self) -> MutexGuard<'_, Search> {
        // If a panic interrupted a scan, the next scan reads the unfinished files again.
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, Found> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
