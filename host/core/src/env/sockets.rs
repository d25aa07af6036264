//! The folder for the sockets of plugins that serve virtual machines.
#![expect(unsafe_code, reason = "sets an environment variable, which plugins read")]

use crate::{Error, Result};
use std::fs;
use std::path::Path;

/// The environment variable in which plugins find the folder.
const VARIABLE: &str = "DRIVEBAY_SOCKET_DIR";

/// Sets the folder for this process.
///
/// # Errors
/// `EBUSY` when the process has more than one thread, because another thread could read the
/// environment at the same time. `ENOENT` or another error of `stat` when the folder cannot be
/// reached; `ENOTDIR` when the path is not a folder.
pub fn set_folder(folder: &Path) -> Result<()> {
    if !fs::metadata(folder)?.is_dir() {
        return Err(Error::new(libc::ENOTDIR, "not a folder"));
    }
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Error::new(libc::EBUSY, "the process already has other threads"));
    }
    // SAFETY: the check above found no other thread that could read the environment.
    unsafe { std::env::set_var(VARIABLE, folder) };
    Ok(())
}
