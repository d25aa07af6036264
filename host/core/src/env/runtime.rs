//! The runtime folder: sockets and staged plugins of one host.

use crate::{Error, Result};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// `DRIVEBAY_RUNTIME`, else the user's runtime folder, else `/run/drivebay`, else a folder of the
/// user's own below `/tmp`. It is made with mode 0700 when it is not there.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn folder() -> Result<PathBuf> {
    let path = chosen();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| {
        Error::new(
            error.raw_os_error().unwrap_or(libc::EIO),
            format!("runtime folder {}: {error}; set DRIVEBAY_RUNTIME to another", path.display()),
        )
    })?;
    let meta = fs::metadata(&path)?;
    let own = meta.uid() == own_uid() && meta.permissions().mode() & 0o022 == 0;
    if !own {
        return Err(Error::new(
            libc::EPERM,
            format!(
                "runtime folder {} must belong to this user and be writable by nobody else",
                path.display()
            ),
        ));
    }
    Ok(path)
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
    // A process's own entry belongs to its effective user.
    fs::metadata("/proc/self").map_or(u32::MAX, |meta| meta.uid())
}
