//! Listening sockets, and VMMs that connect to them.

use super::{Control, Entry};
use drivebay_sdk::runtime::net::remove_stale;
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{Error, Result, errno, thread, tracing};
use rustix::event::epoll;
use rustix::io::Errno;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// How long listeners pause when descriptors or memory have run out, in nanoseconds.
const REST_NS: u64 = 100_000_000;

impl Control {
    /// Opens the listening socket of a controller. Returns the listener's key.
    ///
    /// # Errors
    /// The error of bind(2), with the path; `EEXIST` for a file that is not a socket, `EBUSY` for a socket in use.
    pub fn listen(&self, controller: &str, path: &Path) -> Result<u64> {
        let listener = bind(path)?;
        listener.set_nonblocking(true)?;
        let key = self.key();
        self.watch(&listener, key)?;
        let path = path.to_owned();
        let entry = Entry::Listener { controller: controller.to_owned(), listener, path };
        self.entries.borrow_mut().insert(key, entry);
        Ok(key)
    }

    /// Stops listening, and removes the socket's file.
    pub fn unlisten(&self, key: u64) {
        if let Some(Entry::Listener { path, .. }) = self.entries.borrow_mut().remove(&key) {
            let _ = std::fs::remove_file(path); // an error means that the file is already gone
        }
    }

    /// Accepts one VMM from a listener. Returns its controller and its connection.
    pub(super) fn accept(&self, key: u64) -> Option<(String, UnixStream)> {
        let entries = self.entries.borrow();
        let Some(Entry::Listener { controller, listener, .. }) = entries.get(&key) else {
            return None;
        };
        match listener.accept() {
            Ok((stream, _)) => {
                self.is_exhausted.set(false);
                return Some((controller.clone(), stream));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_exhausted(&error) => self.rest(key, controller, listener, &error),
            Err(error) => {
                static REFUSED: Throttle = Throttle::new();
                if let Some(left_out) = REFUSED.admit() {
                    tracing::warn!(
                        "vhost controller {controller}: accept: {error} ({left_out} such lines left out)"
                    );
                }
            }
        }
        None
    }

    /// Stops watching a listener for a while. A listener that cannot accept stays readable and would keep the thread busy.
    fn rest(&self, key: u64, controller: &str, listener: &UnixListener, why: &dyn fmt::Display) {
        let _ = epoll::delete(&self.epoll, listener); // an error means that it is not watched
        let mut resting = self.resting.borrow_mut();
        if resting.is_empty() {
            self.rests_until_ns.set(thread::now_ns().saturating_add(REST_NS));
        }
        resting.push(key);
        if !self.is_exhausted.replace(true) {
            tracing::error!(
                "vhost controller {controller}: no VMM can be accepted: {why}; they wait until descriptors are free or \
                 the limit is raised (ulimit -n, LimitNOFILE=)"
            );
        }
    }

    /// Watches the listeners again when their pause is over. Returns whether it is over.
    pub(super) fn end_rest(&self) -> bool {
        if self.resting.borrow().is_empty() || thread::now_ns() < self.rests_until_ns.get() {
            return false;
        }
        self.rests_until_ns.set(u64::MAX);
        for key in self.resting.take() {
            if let Some(Entry::Listener { controller, listener, .. }) =
                self.entries.borrow().get(&key)
                && let Err(error) = self.watch(listener, key)
            {
                self.rest(key, controller, listener, &error);
            }
        }
        true
    }
}

/// Binds a socket. Replaces a socket that a killed host left behind, but no other file.
fn bind(path: &Path) -> Result<UnixListener> {
    let refuse = |error: std::io::Error| {
        Error::new(
            error.raw_os_error().unwrap_or(errno::EIO),
            format!("{}: {error}", path.display()),
        )
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path).map_err(refuse)
        }
        bound => bound.map_err(refuse),
    }
}

/// Whether the error says that descriptors or memory have run out.
fn is_exhausted(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_uses_is_replaced_and_any_other_file_stays() {
        let path = std::env::temp_dir().join(format!("vhost-bind-{}", std::process::id()));
        std::fs::write(&path, "kept").unwrap();
        assert_eq!(bind(&path).unwrap_err().errno(), errno::EEXIST);
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        std::fs::remove_file(&path).unwrap();

        let first = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().errno(), errno::EBUSY);
        drop(first);
        drop(bind(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
