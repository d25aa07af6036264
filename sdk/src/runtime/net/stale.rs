//! Unix sockets that a killed process left behind.

use crate::error::{Error, Result, errno};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Removes the socket at a path if no process uses it, so that a listener can bind the path again. Leaves any other file alone.
///
/// # Errors
/// `EEXIST` for a file that is not a socket, `EBUSY` for a socket in use, or the system's error, with the path.
pub fn remove_stale(path: &Path) -> Result<()> {
    let refuse = |number, why: String| Error::new(number, format!("{}: {why}", path.display()));
    let failed =
        |error: io::Error| refuse(error.raw_os_error().unwrap_or(errno::EIO), error.to_string());
    let file = std::fs::symlink_metadata(path).map_err(failed)?.file_type();
    if !file.is_socket() {
        return Err(refuse(errno::EEXIST, "this file exists and is not a socket".to_owned()));
    }
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    // Without waiting: the listener of a busy process may accept nothing for a while.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    match rustix::net::connect(&socket.map_err(|error| failed(error.into()))?, &address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(failed),
        _ => Err(refuse(errno::EBUSY, "another process uses this socket".to_owned())),
    }
}
