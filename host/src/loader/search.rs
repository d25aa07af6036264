//! The search path: which plugins are present now.
//!
//! Every search scans the folders again, so the host finds a new plugin without being told. The
//! host keeps what it read of a file as long as the file does not change.

use super::error::{Error, Result};
use super::inspect::{Inspection, NotAPlugin, inspect_file};
use super::manifest::Manifest;
use super::trust::{Policy, owner};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The environment variable with additional folders, separated by colons.
pub const PATH_VARIABLE: &str = "DRIVEBAY_PLUGIN_PATH";
/// The maximum number of files of one folder that are checked.
const FILES_PER_FOLDER_MAX: usize = 4096;

/// One file that claims to be a plugin.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The path of the file.
    pub path: PathBuf,
    /// The content of the file.
    pub inspection: Inspection,
    /// Why it may not be loaded; `None` = it may be loaded.
    pub refusal: Option<Error>,
    /// Distinguishes it from another file at the same path.
    pub stamp: Stamp,
}

impl Candidate {
    /// Returns the manifest of a plugin that may be loaded.
    #[must_use]
    pub fn usable(&self) -> Option<&Manifest> {
        self.refusal.is_none().then_some(self.inspection.manifest.as_ref()).flatten()
    }

    /// The name in the manifest, or that of the file.
    #[must_use]
    pub fn name(&self) -> String {
        let manifest = self.inspection.manifest.as_ref();
        manifest.map_or_else(|| file_name(&self.path), |manifest| manifest.name.clone())
    }
}

/// What a file is.
type Look = std::result::Result<Candidate, NotAPlugin>;

/// The folders, and what was read of their files.
#[derive(Debug)]
pub struct Search {
    folders: Vec<PathBuf>,
    policy: Arc<Policy>,
    known: BTreeMap<PathBuf, (Stamp, Look)>,
}

/// The properties of a file by which the search notices that it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
    len: u64,
    inode: u64,
    folder_mode: u32,
}

impl Search {
    /// Searches `folders` in this order. A plugin that the policy forbids is found, but refused.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, policy: Arc<Policy>) -> Self {
        Self { folders, policy, known: BTreeMap::new() }
    }

    /// The folders of the command line, then those of the environment, then the program's own
    /// folder and `../lib/drivebay/plugins`.
    #[must_use]
    pub fn default_folders(given: &[PathBuf]) -> Vec<PathBuf> {
        let mut folders = given.to_vec();
        if let Some(list) = std::env::var_os(PATH_VARIABLE) {
            folders.extend(std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()));
        }
        if let Ok(program) = std::env::current_exe()
            && let Some(own) = program.parent()
        {
            folders.push(own.to_owned());
            folders.push(own.join("../lib/drivebay/plugins"));
        }
        folders
    }

    /// The folders in their order.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Every plugin on the path now, including those that may not be loaded.
    pub fn scan(&mut self) -> Vec<Candidate> {
        let mut seen = BTreeMap::new();
        let mut found = Vec::new();
        for folder in self.folders.clone() {
            for path in shared_objects(&folder) {
                if seen.contains_key(&path) {
                    continue;
                }
                if let Some((stamp, look)) = self.look_at(&path) {
                    found.extend(look.clone());
                    seen.insert(path, (stamp, look));
                }
            }
        }
        self.known = seen;
        found
    }

    /// The files that the last scan could not read and that may be plugins, each with the reason.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.known.iter().filter_map(|(path, (_, look))| match look {
            Err(NotAPlugin::Unreadable(why) | NotAPlugin::ReadFailed(why)) => {
                Some((path.as_path(), why.as_str()))
            }
            Ok(_) | Err(NotAPlugin::SomethingElse) => None,
        })
    }

    fn look_at(&self, path: &Path) -> Option<(Stamp, Look)> {
        let file = fs::metadata(path).ok()?;
        let folder = fs::metadata(folder_of(path)).ok()?;
        let stamp = Stamp::of(&file, &folder);
        let known = self.known.get(path).filter(|(known, _)| *known == stamp);
        match known {
            // Do not keep this result: another attempt to read may succeed, even though the file
            // has not changed.
            Some((_, look)) if !matches!(look, Err(NotAPlugin::ReadFailed(_))) => {
                Some((stamp, look.clone()))
            }
            _ => {
                let look = look_into(path).map(|found| self.judge(found));
                // Logged once. Nobody can know what the file would have provided.
                if known.is_none()
                    && let Err(NotAPlugin::Unreadable(why) | NotAPlugin::ReadFailed(why)) = &look
                {
                    tracing::warn!(path = %path.display(), "passed over: {why}");
                }
                Some((stamp, look))
            }
        }
    }

    fn judge(&self, mut candidate: Candidate) -> Candidate {
        if candidate.refusal.is_none() {
            let manifest = candidate.inspection.manifest.as_ref();
            let judged = manifest.map(|manifest| self.policy.check_manifest(manifest));
            candidate.refusal = judged.and_then(Result::err);
        }
        candidate
    }

    /// The best plugin of that name: the highest version that fits, and among equal versions the
    /// first.
    ///
    /// # Errors
    /// `ENOENT` when there is none; the refusal when all of them are refused.
    pub fn by_name(&mut self, name: &str, version: &semver::VersionReq) -> Result<Candidate> {
        let candidates: Vec<Candidate> =
            self.scan().into_iter().filter(|c| c.name() == name).collect();
        let fits = |c: &&Candidate| {
            c.usable().is_some_and(|m| {
                *version == semver::VersionReq::STAR || version.matches(&m.version)
            })
        };
        if let Some(best) = best(candidates.iter().filter(fits)) {
            return Ok(best.clone());
        }
        if let Some(refused) = candidates.iter().find_map(|c| c.refusal.clone()) {
            return Err(Error::new(refused.errno(), format!("plugin {name}: {refused}")));
        }
        let found: Vec<String> =
            candidates.iter().filter_map(|c| c.usable()).map(|m| m.version.to_string()).collect();
        if found.is_empty() {
            return Err(self.not_found(name));
        }
        let message = format!("plugin {name}: found {}; required {version}", found.join(", "));
        Err(Error::new(libc::ENOENT, message))
    }

    /// The plugins that a load by name would choose: the highest usable version of each name.
    pub fn best_of_each_name(&mut self) -> Vec<Candidate> {
        let mut names: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        for candidate in self.scan().into_iter().filter(|c| c.usable().is_some()) {
            names.entry(candidate.name()).or_default().push(candidate);
        }
        names.values().filter_map(|same_name| best(same_name.iter()).cloned()).collect()
    }

    /// The plugin to load for `provision`; `None` when no plugin on the path provides it.
    ///
    /// # Errors
    /// `EEXIST` when plugins of different names provide it, because the operator must choose. If
    /// the only provider may not be loaded, the reason for that.
    pub fn by_provision(&mut self, provision: &str) -> Result<Option<Candidate>> {
        let mut providers = self.best_of_each_name();
        providers.retain(|c| c.usable().is_some_and(|m| m.provides(provision)));
        match providers.as_slice() {
            [] => self.refused_provider(provision).map_or(Ok(None), Err),
            [one] => Ok(Some(one.clone())),
            several => {
                let names: Vec<String> = several.iter().map(Candidate::name).collect();
                let message = format!(
                    "{provision} is provided by {}; load one of them by name",
                    names.join(" and ")
                );
                Err(Error::new(libc::EEXIST, message))
            }
        }
    }
}

impl Search {
    /// The error for an unknown plugin. It lists files of this name that are not plugins, because
    /// they are incomplete or unreadable.
    fn not_found(&self, name: &str) -> Error {
        let folders: Vec<_> = self.folders.iter().map(|f| f.display().to_string()).collect();
        let mut message = format!("plugin {name}: not found in {}", folders.join(", "));
        let crate_name = name.replace('-', "_");
        for (path, (_, look)) in &self.known {
            let is_called_so = path
                .file_stem()
                .and_then(OsStr::to_str)
                .is_some_and(|stem| stem.ends_with(name) || stem.ends_with(&crate_name));
            if let Err(why) = look
                && is_called_so
            {
                let _ = write!(message, "; {}: {why}", path.display());
            }
        }
        Error::new(libc::ENOENT, message)
    }

    /// Why the plugin whose manifest lists `provision` may not be loaded.
    fn refused_provider(&self, provision: &str) -> Option<Error> {
        self.known.values().filter_map(|(_, look)| look.as_ref().ok()).find_map(|candidate| {
            let refusal = candidate.refusal.as_ref()?;
            let manifest = candidate.inspection.manifest.as_ref()?;
            let (name, path) = (&manifest.name, candidate.path.display());
            manifest.provides(provision).then(|| {
                let message =
                    format!("{provision}: plugin {name} provides it; it is not loaded from {path}: {refusal}");
                Error::new(refusal.errno(), message)
            })
        })
    }
}

/// The name of a plugin whose manifest cannot be read.
pub(super) fn file_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads the plugin at `path`, which may be in any folder. A file of another user is not read: a
/// user who may put files into a shared folder must not be able to keep the host busy with them.
///
/// # Errors
/// What the file is, if it is not a plugin or cannot be read.
pub fn look_into(path: &Path) -> Look {
    let unreadable = |e: std::io::Error| NotAPlugin::ReadFailed(format!("cannot be read: {e}"));
    let file = owner::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(NotAPlugin::Unreadable("not a regular file".to_owned()));
    }
    owner::check_owner(path, &metadata).map_err(|e| NotAPlugin::Unreadable(e.to_string()))?;
    let inspection = inspect_file(&file)?;
    let folder = folder_of(path);
    let folder_metadata = fs::metadata(folder).map_err(unreadable)?;
    // Folders first, so that a fault of a folder is reported once and not for each of its files.
    let refusal = owner::check_folders(path)
        .and_then(|()| owner::check_file(path, &metadata))
        .and_then(|()| inspection.allowed().map(|_| ()))
        .err();
    let stamp = Stamp::of(&metadata, &folder_metadata);
    Ok(Candidate { path: path.to_owned(), inspection, refusal, stamp })
}

/// Reads the file at `path`, together with every reason not to load it, including owner and mode.
///
/// # Errors
/// What the file is, if it is not a plugin or cannot be read.
pub fn inspect_to_load(path: &Path) -> std::result::Result<Inspection, NotAPlugin> {
    let Candidate { mut inspection, refusal, .. } = look_into(path)?;
    if let Some(refusal) = refusal.filter(|_| inspection.refusals.is_empty()) {
        inspection.refusals.push(refusal.to_string());
    }
    Ok(inspection)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn best<'c>(candidates: impl Iterator<Item = &'c Candidate>) -> Option<&'c Candidate> {
    let newer = |best: &&'c Candidate, next: &&'c Candidate| {
        next.usable().map(|m| &m.version) > best.usable().map(|m| &m.version)
    };
    candidates.reduce(|best, next| if newer(&best, &next) { next } else { best })
}

/// The `*.so` files of a folder, sorted by name; none when the folder cannot be read.
fn shared_objects(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("so")))
        .take(FILES_PER_FOLDER_MAX)
        // Each file has one path, even if a folder is given twice.
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    paths.sort();
    paths
}

impl Stamp {
    fn of(file: &Metadata, folder: &Metadata) -> Self {
        Self {
            modified_ns: (file.mtime(), file.mtime_nsec()),
            // The change time also covers a change of owner or mode.
            changed_ns: (file.ctime(), file.ctime_nsec()),
            len: file.len(),
            inode: file.ino(),
            folder_mode: folder.mode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_plugins_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libtext.so"), "hello").unwrap();
        fs::copy(std::env::current_exe().unwrap(), folder.path().join("program.so")).unwrap();
        let mut search =
            Search::new(vec![folder.path().to_owned(), "/nonexistent".into()], Arc::default());
        assert!(search.scan().is_empty());
        assert_eq!(search.known.len(), 2, "both files are remembered and not read again");
        let error = search.by_name("malloc", &semver::VersionReq::STAR).unwrap_err();
        assert_eq!(error.errno(), libc::ENOENT);
        assert!(error.message().starts_with("plugin malloc: not found in "), "{error}");
        assert!(!error.message().contains("libtext"), "other files are not listed: {error}");
    }

    #[test]
    fn a_file_that_is_called_like_the_plugin_and_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libdrivebay_nvmf_tcp.so");
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(&file, &whole[..20]).unwrap();
        let mut search = Search::new(vec![folder.path().to_owned()], Arc::default());
        let error = search.by_name("nvmf-tcp", &semver::VersionReq::STAR).unwrap_err();
        assert_eq!(error.errno(), libc::ENOENT);
        assert!(
            error.message().ends_with(
                "libdrivebay_nvmf_tcp.so: not a 64-bit ELF file; a plugin is a shared object"
            ),
            "{error}"
        );
    }
}
