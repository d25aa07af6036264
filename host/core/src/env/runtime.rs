//! The runtime folder: the sockets and staged plugins of one host.

use crate::{Error, Result};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Returns `DRIVEBAY_RUNTIME`, else a folder in the user's runtime folder, else `/run/drivebay` for
/// root, else a folder of the user in `/tmp`. Creates it with mode 0700 when it does not exist.
///
/// # Errors
/// When the folder cannot be created, belongs to another user, or is a symbolic link that another user made. Anybody can create such a
/// link in a folder such as `/tmp` before the host starts.
pub fn folder() -> Result<PathBuf> {
    let path = chosen();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| {
        Error::new(
            error.raw_os_error().unwrap_or(libc::EIO),
            format!(
                "runtime folder {}: {error}; set DRIVEBAY_RUNTIME to another folder",
                path.display()
            ),
        )
    })?;
    check(&path, own_uid())?;
    Ok(path)
}

fn check(path: &Path, own: u32) -> Result<()> {
    let refused = |what: &str| {
        let message = format!(
            "runtime folder {} {what}; set DRIVEBAY_RUNTIME to another folder",
            path.display()
        );
        Err(Error::new(libc::EPERM, message))
    };
    let itself = fs::symlink_metadata(path)?;
    if itself.is_symlink() && itself.uid() != own && itself.uid() != 0 {
        return refused(&format!(
            "is a symbolic link of user {}, neither root nor this user",
            itself.uid()
        ));
    }
    let folder = fs::metadata(path)?;
    if !folder.is_dir() || folder.uid() != own || folder.permissions().mode() & 0o022 != 0 {
        return refused("must belong to this user and be writable by nobody else");
    }
    Ok(())
}

fn chosen() -> PathBuf {
    if let Some(path) = std::env::var_os("DRIVEBAY_RUNTIME") {
        return path.into();
    }
    if let Some(path) = std::env::var_os("XDG_RUNTIME_DIR") {
        return PathBuf::from(path).join("drivebay");
    }
    if own_uid() == 0 {
        return "/run/drivebay".into();
    }
    format!("/tmp/drivebay-{}", own_uid()).into()
}

fn own_uid() -> u32 {
    // This entry belongs to the effective user of the process.
    fs::metadata("/proc/self").map_or(u32::MAX, |meta| meta.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{lchown, symlink};

    #[test]
    fn a_link_that_another_user_put_there_is_refused() {
        let own = own_uid();
        let base =
            std::env::temp_dir().join(format!("drivebay-runtime-test-{}", std::process::id()));
        let (folder, link) = (base.join("folder"), base.join("link"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        check(&folder, own).unwrap();
        check(&link, own).unwrap();
        // Only root can make a link of another user. Any other user checks its own link as if it
        // were another user.
        let other =
            if own == 0 { lchown(&link, Some(65534), None).map(|()| own) } else { Ok(own + 1) };
        let error = check(&link, other.unwrap()).unwrap_err();
        assert!(error.message().contains("symbolic link"), "{error}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(check(&folder, own).unwrap_err().message().contains("writable by nobody else"));
        fs::remove_dir_all(&base).unwrap();
    }
}
