//! Listening sockets.

use drivebay_sdk::{Error, Result, errno};
use rustix::io::Errno;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds a socket; one that a host left behind, which nobody listens on, is replaced.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let refuse = |error: std::io::Error| {
        Error::new(
            error.raw_os_error().unwrap_or(errno::EIO),
            format!("{}: {error}", path.display()),
        )
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(Error::new(
                    errno::EBUSY,
                    format!("{}: another process listens", path.display()),
                ));
            }
            std::fs::remove_file(path).map_err(refuse)?;
            UnixListener::bind(path).map_err(refuse)
        }
        bound => bound.map_err(refuse),
    }
}

/// Whether descriptors or memory have run out.
pub(crate) fn is_exhausted(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
