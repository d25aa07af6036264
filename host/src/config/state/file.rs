//! The state file on disk. It is locked against a second host and always replaced as a whole.

use drivebay_core::env::runtime;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A state file, and the lock that reserves it for this host.
#[derive(Debug)]
pub struct KeptFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl KeptFile {
    /// Locks the file at `path`, which need not exist. Follows a symbolic link of root or of the
    /// host's user, but only here.
    ///
    /// # Errors
    /// Another host uses the file, or another user could write it or redirect the writes.
    pub fn open(path: &Path) -> Result<Self, String> {
        let path = resolve(path)?;
        if let Some(file) = existing(&path)? {
            check(&path, &file)?;
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content; `None` when the file does not exist or is empty, as in a new container.
    ///
    /// # Errors
    /// The file cannot be read, or another user owns it by now.
    pub fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(content) = read(&self.path)? else { return Ok(None) };
        if is_json(&content) {
            return Ok(Some(content));
        }
        // A file that is a mount point is overwritten in place. If that was interrupted, the copy
        // is complete.
        for copy in [Some(self.beside()), self.in_runtime_folder()].into_iter().flatten() {
            if let Some(whole) = read(&copy)?.filter(|copy| is_json(copy)) {
                let (path, copy) = (self.path.display(), copy.display());
                tracing::warn!("state file {path} is incomplete; the host uses its copy {copy}");
                return Ok(Some(whole));
            }
        }
        Ok(Some(content).filter(|content| !content.is_empty()))
    }

    /// Replaces the content. After a crash the file has either the old or the new text.
    ///
    /// # Errors
    /// The system's error.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.beside();
        let replaced = write_new(&new, text.as_bytes()).and_then(|()| fs::rename(&new, &self.path));
        match replaced {
            Ok(()) => sync_folder(&self.path),
            // A mount point cannot be replaced, and in a container its folder often cannot be
            // written.
            Err(_) if is_mount_point(&self.path) => self.overwrite(text),
            Err(error) => Err(error),
        }
    }

    /// Makes a copy of the file, then overwrites the file in place. [`read`](Self::read) uses the
    /// copy if the overwrite was interrupted.
    fn overwrite(&self, text: &str) -> io::Result<()> {
        let mut copy = self.beside();
        if let Err(error) = write_new(&copy, text.as_bytes()) {
            copy = self.in_runtime_folder().ok_or(error)?;
            write_new(&copy, text.as_bytes())?;
        }
        sync_folder(&copy)?;
        let mut file = open_as(OpenOptions::new().write(true), &self.path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        fs::remove_file(&copy)
    }

    /// Saves the current content beside the file, as `FILE.before`. Returns the path.
    ///
    /// # Errors
    /// One line that names the file and says what is wrong.
    pub fn copy_as_before(&self) -> Result<PathBuf, String> {
        let before = with_suffix(&self.path, ".before");
        let content = read(&self.path)?.unwrap_or_default();
        write_new(&before, &content).map_err(|error| format!("{}: {error}", before.display()))?;
        Ok(before)
    }

    fn beside(&self) -> PathBuf {
        with_suffix(&self.path, ".new")
    }

    fn in_runtime_folder(&self) -> Option<PathBuf> {
        let name = self.path.display().to_string().replace('/', "%");
        Some(runtime::folder().ok()?.join(format!("state{name}.new")))
    }
}

/// The path of the file after symbolic links.
fn resolve(path: &Path) -> Result<PathBuf, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if let Ok(link) = fs::symlink_metadata(path)
        && link.is_symlink()
    {
        if !is_own(link.uid()) {
            let uid = link.uid();
            return Err(format!(
                "{}: a symbolic link of user {uid}; allowed: of root or the host's user",
                path.display()
            ));
        }
        return fs::canonicalize(path).map_err(failed);
    }
    let name = path.file_name().ok_or_else(|| format!("{}: no file name", path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    Ok(folder.join(name))
}

fn is_own(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Opens a file without following a symbolic link.
fn open_as(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Nonblocking, so that a FIFO is refused instead of waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    options.custom_flags(flags.bits()).open(path)
}

fn existing(path: &Path) -> Result<Option<File>, String> {
    match open_as(OpenOptions::new().read(true), path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Refuses a file that another user could write, or that has another hard link.
fn check(path: &Path, file: &File) -> Result<Metadata, String> {
    let path = path.display();
    let meta = file.metadata().map_err(|error| format!("{path}: {error}"))?;
    let (uid, mode, links) = (meta.uid(), meta.permissions().mode() & 0o7777, meta.nlink());
    if !meta.is_file() {
        return Err(format!("{path}: not a regular file"));
    }
    if !is_own(uid) {
        return Err(format!("{path}: belongs to user {uid}; allowed: root or the host's user"));
    }
    if mode & 0o022 != 0 {
        return Err(format!("{path}: has mode {mode:04o}; others must not write it (chmod go-w)"));
    }
    if links != 1 {
        return Err(format!("{path}: has {links} hard links; allowed: 1"));
    }
    Ok(meta)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let Some(mut file) = existing(path)? else { return Ok(None) };
    check(path, &file)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(content))
}

/// Locks a file beside the state file, because each replacement makes a new state file. If the
/// folder cannot be written, the state file is never replaced, so it is locked itself.
fn lock(path: &Path) -> Result<Flock<File>, String> {
    let beside = with_suffix(path, ".lock");
    let mut options = OpenOptions::new();
    let file = open_as(options.write(true).create(true).mode(0o600), &beside)
        .or_else(|error| open_as(OpenOptions::new().write(true), path).map_err(|_| error))
        .map_err(|error| format!("{}: {error}", beside.display()))?;
    check(&beside, &file)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            Err(format!("{}: another host keeps its state there", path.display()))
        }
        Err((_, errno)) => Err(format!("{}: cannot lock it: {errno}", beside.display())),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a new file and syncs it to disk. Removes what a killed host left first.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = open_as(options.write(true).create_new(true).mode(0o600), path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether `path`, which is canonical, is a mount point: proc_pid_mountinfo(5), field 5. The table
/// writes blanks and similar characters in octal.
fn is_mount_point(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let escaped = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| {
        let point =
            escaped.iter().fold(point.to_owned(), |text, (from, to)| text.replace(from, to));
        Path::new(&point) == path
    })
}

fn is_json(content: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(content).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_through_an_own_link_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("state"), dir.path().join("link"));
        let file = KeptFile::open(&path).unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.replace("1").unwrap();
        drop(file);
        symlink(&path, &link).unwrap();
        let file = KeptFile::open(&link).unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(&b"1"[..]));
        file.replace("2").unwrap();
        assert_eq!(text(&path), "2");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The file, its lock and the link.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no other file may remain");
    }

    #[test]
    fn a_second_host_is_refused_also_after_the_file_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = KeptFile::open(&path).unwrap();
        first.replace("{}").unwrap();
        assert!(KeptFile::open(&path).unwrap_err().contains("another host"));
        drop(first);
        KeptFile::open(&path).unwrap();
    }

    #[test]
    fn what_others_may_write_or_what_is_elsewhere_too_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(KeptFile::open(&path).unwrap_err().contains("chmod go-w"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(KeptFile::open(&path).unwrap_err().contains("hard links"));
        assert!(KeptFile::open(dir.path()).unwrap_err().contains("not a regular file"));
        assert!(KeptFile::open(Path::new("/nonexistent/state")).is_err());
    }

    #[test]
    fn a_link_in_the_way_of_the_new_file_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("state"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, dir.path().join("state.new")).unwrap();
        KeptFile::open(&path).unwrap().replace("{}").unwrap();
        assert_eq!((text(&path).as_str(), text(&precious).as_str()), ("{}", "precious"));
    }

    #[test]
    fn a_file_that_was_written_in_part_is_taken_from_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let file = KeptFile::open(&path).unwrap();
        file.overwrite("{}").unwrap_err(); // Fails, because there is no file to overwrite.
        assert_eq!(text(&dir.path().join("state.new")), "{}");
        file.replace("{\"a\": 1}").unwrap();
        write_new(&dir.path().join("state.new"), b"{\"b\": 22}").unwrap();
        assert_eq!(file.read().unwrap().unwrap(), b"{\"a\": 1}");
        fs::write(&path, "{\"b\": 2").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(file.read().unwrap().unwrap(), b"{\"b\": 22}");
        file.overwrite("{}").unwrap();
        assert_eq!(text(&path), "{}");
        assert!(!dir.path().join("state.new").exists());
    }
}
