//! Staging: the host loads a plugin from its own copy of the file, whose name no other load uses.
//!
//! The host checks the copy, so later changes to the original do not matter. The dynamic loader
//! identifies libraries by their file, so it never mistakes a new version for one that is mapped.

use super::error::{Error, Result};
use super::inspect::{Inspection, NotAPlugin, inspect_file};
use super::trust::owner;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::{FsFlags, statvfs};
use ring::digest::{Context, SHA256};
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Marks a folder of staged copies. The host never removes a folder without the marker.
const MARKER: &str = ".drivebay-staged";
/// The largest plugin, in bytes.
const FILE_LEN_MAX: u64 = 1 << 30;

/// The folder of this process's staged copies. It is removed when this value is dropped.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    /// Locked as long as the process lives, so that other hosts do not take the folder for a stale
    /// one.
    _lock: Flock<File>,
    copies: AtomicU64,
}

/// One staged copy that was checked.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The path of the copy.
    pub path: PathBuf,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// What the inspection of the copy found.
    pub inspection: Inspection,
}

impl Stage {
    /// Creates `<runtime>/plugins/<pid>`. If the runtime folder is mounted `noexec`, it creates
    /// such a folder among the temporary files instead. Removes the folders of processes that have
    /// ended.
    ///
    /// # Errors
    /// The folder that could not be created.
    pub fn new(runtime: &Path) -> Result<Self> {
        let parent = folder_for_code(runtime)?;
        remove_stale(&parent);
        let folder = parent.join(std::process::id().to_string());
        loop {
            make_private(&folder)?;
            let lock = File::open(&folder).map_err(|e| Error::of_file("open", &folder, &e))?;
            let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, e)| Error::of_file("lock", &folder, &e.into()))?;
            // Another process may have removed it as stale between the two steps.
            if lock.metadata().is_ok_and(|m| m.nlink() > 0) {
                let marker = folder.join(MARKER);
                File::create(&marker).map_err(|e| Error::of_file("make", &marker, &e))?;
                return Ok(Self { folder, _lock: lock, copies: AtomicU64::new(0) });
            }
        }
    }

    /// Copies the plugin at `path`, and hashes and inspects the copy. Any thread; blocks.
    ///
    /// # Errors
    /// What forbids it (owner, mode, notes), or why the copy failed.
    pub fn copy(&self, path: &Path) -> Result<Staged> {
        let mut from = open_plugin(path)?;
        // Dropping this value removes the temporary name, unless the copy got its final name
        // before.
        let mut incoming = tempfile::Builder::new()
            .prefix("incoming-")
            .tempfile_in(&self.folder)
            .map_err(|e| Error::of_file("write to", &self.folder, &e))?;
        let sha256 = copy_and_hash(&mut from, incoming.as_file_mut())
            .map_err(|e| Error::of_file("copy", path, &e))?;
        let inspection = incoming
            .rewind()
            .map_err(|e| NotAPlugin::Unreadable(e.to_string()))
            .and_then(|()| inspect_file(incoming.as_file()))
            .map_err(|e| Error::new(libc::ENOEXEC, format!("{}: {e}", path.display())))?;
        let name = &inspection.allowed()?.name;
        let (start, number) =
            (sha256.get(..16).unwrap_or_default(), self.copies.fetch_add(1, Ordering::Relaxed));
        let staged = self.folder.join(format!("{name}-{start}-{number}.so"));
        incoming.persist(&staged).map_err(|e| Error::of_file("make", &staged, &e.error))?;
        Ok(Staged { path: staged, sha256, inspection })
    }
}

/// Opens a plugin if its owner, mode and length are allowed.
fn open_plugin(path: &Path) -> Result<File> {
    let file = owner::open(path).map_err(|e| Error::of_file("open", path, &e))?;
    let metadata = file.metadata().map_err(|e| Error::of_file("read", path, &e))?;
    owner::check_folders(path)?;
    owner::check_file(path, &metadata)?;
    if metadata.len() > FILE_LEN_MAX {
        let (path, len) = (path.display(), metadata.len());
        let message = format!("{path}: {len} bytes; at most {FILE_LEN_MAX}");
        return Err(Error::new(libc::EFBIG, message));
    }
    Ok(file)
}

/// The SHA-256 of a plugin's file as it is now, in hexadecimal. Any thread; blocks.
///
/// # Errors
/// As for [`Stage::copy`], except for the notes.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = open_plugin(path)?;
    copy_and_hash(&mut file, &mut std::io::sink()).map_err(|e| Error::of_file("read", path, &e))
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Mapped copies stay mapped; only their names are removed.
        remove_copies(&self.folder);
    }
}

fn copy_and_hash(from: &mut File, to: &mut impl Write) -> std::io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut limited = from.take(FILE_LEN_MAX);
    loop {
        let len = limited.read(&mut buffer)?;
        let Some(piece) = buffer.get(..len).filter(|piece| !piece.is_empty()) else { break };
        hash.update(piece);
        to.write_all(piece)?;
    }
    Ok(hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `/run` is often mounted `noexec`. Then the copies are made among the temporary files.
fn folder_for_code(runtime: &Path) -> Result<PathBuf> {
    let uid = nix::unistd::Uid::effective().as_raw();
    let temporary = std::env::temp_dir().join(format!("drivebay-plugins-{uid}"));
    let choices = [runtime.join("plugins"), temporary];
    for folder in &choices {
        make_private(folder)?;
        let mount = statvfs(folder).map_err(|e| Error::of_file("stat", folder, &e.into()))?;
        if !mount.flags().contains(FsFlags::ST_NOEXEC) {
            return Ok(folder.clone());
        }
    }
    let list: Vec<String> = choices.iter().map(|f| f.display().to_string()).collect();
    let message = format!("plugins cannot be staged: {} are mounted noexec", list.join(" and "));
    Err(Error::new(libc::EACCES, message))
}

fn make_private(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Error::of_file("make", folder, &e))?;
    let metadata = fs::symlink_metadata(folder).map_err(|e| Error::of_file("read", folder, &e))?;
    let own = nix::unistd::Uid::effective().as_raw();
    if metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{}: must be a folder of user {own} with mode 0700", folder.display());
    Err(Error::new(libc::EPERM, message))
}

/// Removes the folders of processes that have ended. Nobody has locked these.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let is_run = folder.file_name().and_then(|n| n.to_str()).is_some_and(is_pid);
        let Ok(lock) = File::open(&folder) else { continue };
        if !is_run {
            continue;
        }
        if let Ok(_locked) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            remove_copies(&folder);
        }
    }
}

/// Removes a folder of staged copies: its files and the folder itself. It removes nothing if the
/// marker is missing, and nothing in subfolders.
fn remove_copies(folder: &Path) {
    let is_ours = fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::Uid::effective().as_raw());
    if !is_ours || !folder.join(MARKER).is_file() {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name() != MARKER) {
        let _ = fs::remove_file(entry.path());
    }
    // Remove the marker last, so that a partly removed folder still counts as ours.
    let _ = fs::remove_file(folder.join(MARKER));
    let _ = fs::remove_dir(folder);
}

fn is_pid(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_folder_is_removed_and_a_live_one_is_kept() {
        let runtime = tempfile::tempdir().unwrap();
        let parent = runtime.path().join("plugins");
        let stale = parent.join("1");
        let other = parent.join("notes");
        let somebodys = parent.join("2");
        for folder in [&stale, &other, &somebodys] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).unwrap();
        }
        fs::write(stale.join(MARKER), "").unwrap();
        fs::write(stale.join("x.so"), "").unwrap();
        fs::write(somebodys.join("x.so"), "").unwrap();
        let stage = Stage::new(runtime.path()).unwrap();
        assert!(!stale.exists(), "no process has locked it");
        assert!(other.exists(), "its name is not a process id");
        assert!(somebodys.join("x.so").exists(), "it has no marker");
        remove_stale(&parent);
        assert!(stage.folder.exists(), "it is locked");
        let folder = stage.folder.clone();
        drop(stage);
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_no_plugin_is_not_staged() {
        let runtime = tempfile::tempdir().unwrap();
        let stage = Stage::new(runtime.path()).unwrap();
        let path = runtime.path().join("text.so");
        fs::write(&path, "hello").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let error = stage.copy(&path).unwrap_err();
        assert!(error.message().contains("not a 64-bit ELF"), "{error}");
        let left = fs::read_dir(&stage.folder).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, [MARKER]);
    }
}
