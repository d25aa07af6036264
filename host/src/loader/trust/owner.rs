//! Who may install plugins: only root and the user that the host runs as.

use super::super::error::{Error, Result};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

const GROUP_WRITABLE: u32 = 0o020;
const WORLD_WRITABLE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Opens a file for reading. If the file is a pipe, the call does not wait for its other end; the
/// caller must check the type of the file.
///
/// # Errors
/// The errors of open(2).
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Checks the owner and the mode of a plugin's file.
///
/// # Errors
/// `EPERM` with the owner or mode that was found, and what is required.
pub fn check_file(path: &Path, file: &Metadata) -> Result<()> {
    if !file.is_file() {
        return Err(Error::new(libc::EINVAL, format!("{}: not a regular file", path.display())));
    }
    check_owner(path, file)?;
    if is_writable_by_others(file) {
        return Err(writable(path, file));
    }
    Ok(())
}

/// Checks the owner and the mode of the folder of a file, and of all folders above it. A user who
/// may rename one of these folders could replace it. Other users may write to a folder only if it
/// is sticky, because then they cannot replace files that they do not own.
///
/// # Errors
/// `EPERM` with the folder, its owner or mode, and what is required.
pub fn check_folders(file: &Path) -> Result<()> {
    let file = file.canonicalize().map_err(|e| Error::of_file("find", file, &e))?;
    for folder in file.ancestors().skip(1) {
        let metadata = fs::metadata(folder).map_err(|e| Error::of_file("read", folder, &e))?;
        check_folder(folder, &metadata)?;
    }
    Ok(())
}

fn check_folder(path: &Path, folder: &Metadata) -> Result<()> {
    check_owner(path, folder)?;
    if folder.mode() & STICKY == 0 && is_writable_by_others(folder) {
        return Err(writable(path, folder));
    }
    Ok(())
}

/// Whether any other user may write it. The members of a group may, unless it is the owner's
/// private group. Many systems make a private group for each user, and with umask 002 the group may
/// write all new files.
fn is_writable_by_others(found: &Metadata) -> bool {
    let mode = found.mode();
    mode & WORLD_WRITABLE != 0
        || mode & GROUP_WRITABLE != 0 && !is_private_group(found.gid(), found.uid())
}

/// Whether a group has the user's name and no other member.
fn is_private_group(group: u32, user: u32) -> bool {
    let group = Group::from_gid(Gid::from_raw(group)).ok().flatten();
    let user = User::from_uid(Uid::from_raw(user)).ok().flatten();
    let (Some(group), Some(user)) = (group, user) else { return false };
    group.name == user.name && group.mem.iter().all(|member| *member == user.name)
}

/// Checks that root or the host's user owns a file.
///
/// # Errors
/// `EPERM` with the owner, and who must own it.
pub fn check_owner(path: &Path, found: &Metadata) -> Result<()> {
    let own = nix::unistd::Uid::effective().as_raw();
    if found.uid() == 0 || found.uid() == own {
        return Ok(());
    }
    let (path, uid) = (path.display(), found.uid());
    Err(Error::new(
        libc::EPERM,
        format!("{path}: belongs to user {uid}; it must belong to root or to user {own}"),
    ))
}

fn writable(path: &Path, found: &Metadata) -> Error {
    let (path, mode) = (path.display(), found.mode() & 0o7777);
    let message = format!(
        "{path}: has mode {mode:04o}; others must not write it (chmod go-w, or give it to the private group of its owner)"
    );
    Error::new(libc::EPERM, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_write_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.so");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let error = check_file(&path, &fs::metadata(&path).unwrap()).unwrap_err();
        assert!(error.message().contains("mode 0666"), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        check_file(&path, &fs::metadata(&path).unwrap()).unwrap();
    }

    #[test]
    fn a_shared_folder_must_be_sticky() {
        let folder = tempfile::tempdir().unwrap();
        let check = |mode| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            check_folder(folder.path(), &fs::metadata(folder.path()).unwrap())
        };
        assert!(check(0o777).is_err());
        assert!(check(0o772).is_err());
        assert!(check(0o1777).is_ok());
        assert!(check(0o755).is_ok());
    }

    #[test]
    fn a_folder_above_that_others_may_write_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (above, file) = (folder.path().join("above"), folder.path().join("above/own/a.so"));
        fs::create_dir_all(above.join("own")).unwrap();
        fs::write(&file, "").unwrap();
        check_folders(&file).unwrap();
        fs::set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
        let error = check_folders(&file).unwrap_err();
        assert!(error.message().contains("above: has mode 0777"), "{error}");
    }

    #[test]
    fn the_group_of_a_user_alone_may_write_and_others_may_not() {
        // Root's group is private on nearly every system, and `daemon` belongs to another user.
        let root = Group::from_gid(Gid::from_raw(0)).unwrap().unwrap();
        let is_alone = root.name == "root" && root.mem.iter().all(|member| member == "root");
        assert_eq!(is_private_group(0, 0), is_alone);
        assert!(!is_private_group(1, 0));
        assert!(!is_private_group(0, 1));
        assert!(
            !is_private_group(4_000_000_000, 4_000_000_000),
            "neither the group nor the user exists"
        );
    }
}
