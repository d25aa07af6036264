//! The socket file: created with its mode, locked against a second server, and removed at the end.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why the socket cannot be created.
#[derive(Debug)]
pub enum ListenError {
    /// Another server answers at this path.
    InUse(PathBuf),
    /// The path is not a socket. The file is not changed.
    NotASocket(PathBuf),
    /// The system refused an operation.
    Io {
        /// The operation.
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => {
                write!(f, "RPC socket {} is in use by another server", path.display())
            }
            Self::NotASocket(path) => {
                write!(
                    f,
                    "RPC socket {}: a file of another kind exists at this path",
                    path.display()
                )
            }
            Self::Io { what, path, source } => {
                write!(f, "RPC socket {}: cannot {what}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::InUse(_) | Self::NotASocket(_) => None,
        }
    }
}

/// A listening, nonblocking socket, and the lock that reserves its path for this server.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    path: PathBuf,
    /// The device and the inode of the socket file.
    file: Option<(u64, u64)>,
    lock: Lock,
}

impl Listener {
    /// Listens at `path`. Replaces the socket of a server that is gone.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let failed = |what| move |errno| io_error(what, path, errno);
        let socket = unix_socket().map_err(failed("make a socket"))?;
        let address = UnixAddr::new(path).map_err(failed("use the path"))?;
        // Linux gives the file the mode of the socket, so it is never accessible to more users.
        fchmod(&socket, Mode::from_bits_truncate(mode)).map_err(failed("set its mode"))?;
        bind(socket.as_raw_fd(), &address).map_err(failed("bind"))?;
        listen(&socket, Backlog::MAXCONN).map_err(failed("listen"))?;
        let file = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        Ok(Self { socket: UnixListener::from(socket), path: path.to_owned(), file, lock })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // If another process has replaced the file, it is not removed.
        if identity(&self.path).is_some_and(|file| Some(file) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = fs::remove_file(&self.lock.path);
    }
}

/// An advisory lock on `PATH.lock`, the file that SPDK uses, too.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
                .open(&path)
                .map_err(|source| ListenError::Io {
                    what: "open its lock file",
                    path: path.clone(),
                    source,
                })?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(ListenError::InUse(socket.to_owned())),
                Err((_, errno)) => return Err(io_error("lock its lock file", &path, errno)),
            };
            // The file is already gone when a server ended between the two steps.
            let locked = file.metadata().ok().map(|file| (file.dev(), file.ino()));
            if locked.is_some() && locked == identity(&path) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

/// Removes a socket at which nobody listens.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(file) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !file.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    // SPDK's server may have no lock. The socket still shows that such a server lives: the connect succeeds, or fails because the backlog
    // is full.
    let probe = unix_socket().map_err(|errno| io_error("make a socket", path, errno))?;
    let address = UnixAddr::new(path).map_err(|errno| io_error("use the path", path, errno))?;
    match connect(probe.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EAGAIN) => Err(ListenError::InUse(path.to_owned())),
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(|source| ListenError::Io {
            what: "remove the stale socket",
            path: path.to_owned(),
            source,
        }),
        Err(errno) => Err(io_error("probe", path, errno)),
    }
}

fn unix_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn io_error(what: &'static str, path: &Path, errno: Errno) -> ListenError {
    ListenError::Io { what, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_private_and_gone_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpc.sock");
        let listener = Listener::bind(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpc.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&path, 0o600).unwrap();
    }

    #[test]
    fn a_live_socket_is_respected_with_and_without_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpc.sock");
        let first = Listener::bind(&path, 0o600).unwrap();
        assert!(matches!(Listener::bind(&path, 0o600), Err(ListenError::InUse(_))));
        drop(first);
        let _foreign = UnixListener::bind(&path).unwrap();
        let error = Listener::bind(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains("in use by another server"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpc.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path, 0o600), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
