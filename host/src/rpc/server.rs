//! The RPC thread: one `poll(2)` loop for the listener, the clients and a wake-up.
//!
//! It sleeps while nothing happens. [`Config`] contains its limits. A client that sends slowly,
//! sends invalid data or never reads can neither block the thread nor use unlimited memory.

use super::call::{Dispatcher, Peer, RoleTable};
use super::config::Config;
use super::connection::Connection;
use super::listener::{ListenError, Listener};
use super::outbox::{Answer, Outbox, wake_up};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client that has just connected or got an answer keeps its place, because its next
/// request may follow.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How long the server waits before it accepts again when the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A running RPC server. Dropping it stops the thread and removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at the socket, and serves it on a separate thread.
    ///
    /// # Errors
    /// Another server uses the path, or the server cannot listen at it.
    pub fn start(config: Config, dispatcher: Arc<dyn Dispatcher>) -> Result<Self, ListenError> {
        let listener = Listener::bind(&config.path, config.mode)?;
        let path = config.path.clone();
        let failed = |what, source| ListenError::Io { what, path: config.path.clone(), source };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| failed("make an eventfd", errno.into()))?;
        let wake = Arc::new(wake);
        let stopping = Arc::new(AtomicBool::new(false));
        let (sender, answers) = mpsc::channel();
        let looping = Loop {
            listener,
            dispatcher,
            outbox: Outbox { answers: sender, wake: Arc::clone(&wake) },
            answers,
            stopping: Arc::clone(&stopping),
            connections: BTreeMap::new(),
            spare: spare_descriptor(),
            next_connection: 0,
            accept_after: None,
            config: config.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("rpc".into())
            .spawn(move || looping.run())
            .map_err(|source| failed("start its thread", source))?;
        tracing::info!(path = %path.display(), "rpc server listens");
        Ok(Self { path, stopping, wake, thread: Some(thread) })
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends the answers that are ready, closes every connection and removes the socket.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        wake_up(&self.wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Loop {
    listener: Listener,
    dispatcher: Arc<dyn Dispatcher>,
    outbox: Outbox,
    answers: Receiver<Answer>,
    stopping: Arc<AtomicBool>,
    connections: BTreeMap<u64, Connection>,
    /// A spare descriptor. It is closed for a new client when the process has no more descriptors.
    spare: Option<File>,
    next_connection: u64,
    accept_after: Option<Instant>,
    config: Config,
}

/// What `poll` found.
struct Ready {
    accept: bool,
    connections: Vec<(u64, PollFlags)>,
}

impl Loop {
    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "rpc server cannot wait; it ends");
                    return;
                }
            };
            self.deliver_answers();
            if self.stopping.load(Ordering::Acquire) {
                self.write();
                return;
            }
            if ready.accept {
                self.accept();
            }
            self.read(&ready);
            self.advance();
            self.drop_finished();
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let now = Instant::now();
        let accept_rests = self.accept_after.filter(|until| *until > now);
        let may_accept = accept_rests.is_none() && self.has_place();
        let accept = if may_accept { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(self.outbox.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.socket.as_fd(), accept),
        ];
        for connection in self.connections.values() {
            let interest = connection.interest(&self.config);
            fds.push(PollFd::new(connection.stream.as_fd(), interest));
        }
        let has_work = self.connections.values().any(|one| one.has_work(&self.config));
        let deadlines = self.connections.values().filter_map(|one| one.deadline(&self.config));
        let next_place = if self.has_place() { None } else { self.next_idle() };
        let timeout = match deadlines.chain(accept_rests).chain(next_place).min() {
            _ if has_work => PollTimeout::ZERO,
            deadline => until(deadline, now),
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut found = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if found.next().is_some_and(|wake| !wake.is_empty()) {
            // Empty the eventfd before checking the answers, so that the wake-up of a later answer
            // is not lost.
            let _ = self.outbox.wake.read();
        }
        let accept = found.next().is_some_and(|listener| !listener.is_empty());
        Ok(Ready { accept, connections: self.connections.keys().copied().zip(found).collect() })
    }

    fn deliver_answers(&mut self) {
        for Answer { connection, exchange, index, text } in self.answers.try_iter() {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.settle(exchange, index, text, &self.config);
            }
        }
    }

    /// Whether a new client can get a place: one is free, or an idle client can be closed.
    fn has_place(&self) -> bool {
        self.connections.len() < self.config.max_connections || self.idlest().is_some()
    }

    /// The client that has been idle longest, if it has been idle long enough to be closed.
    fn idlest(&self) -> Option<u64> {
        let now = Instant::now();
        let idle = self.connections.iter();
        let idle = idle.filter_map(|(id, connection)| Some((connection.idle_since()?, *id)));
        idle.min().filter(|(since, _)| now.duration_since(*since) >= IDLE_MIN).map(|(_, id)| id)
    }

    /// When the next client will have been idle long enough.
    fn next_idle(&self) -> Option<Instant> {
        let idle = self.connections.values().filter_map(Connection::idle_since);
        idle.min().map(|since| since + IDLE_MIN)
    }

    fn accept(&mut self) {
        while self.has_place() {
            match self.listener.socket.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_descriptors(&error) && self.spare.take().is_some() => {}
                Err(error) => {
                    tracing::warn!(%error, "rpc server cannot accept");
                    self.accept_after = Some(Instant::now() + ACCEPT_REST);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let peer = match peer_of(&stream, &self.config.roles) {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!(%error, "rpc client has no credentials"),
        };
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Connection::new(id, stream, peer, &self.config);
        let kept_free = usize::from(!connection.is_of_operator());
        if self.connections.len() + kept_free >= self.config.max_connections {
            let Some(idlest) = self.idlest() else {
                return tracing::warn!(
                    pid = peer.pid,
                    uid = peer.uid,
                    "rpc client refused: too many connections"
                );
            };
            tracing::debug!(connection = idlest, "an idle rpc client gives up its place");
            self.connections.remove(&idlest);
        }
        self.connections.insert(id, connection);
    }

    fn read(&mut self, ready: &Ready) {
        for (id, found) in &ready.connections {
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            if found.contains(PollFlags::POLLIN) {
                connection.read();
            } else if found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                // The client is gone, and there is nothing left to read.
                connection.close();
            }
        }
    }

    /// Starts the requests that have arrived, and writes the answers that are ready.
    fn advance(&mut self) {
        for connection in self.connections.values_mut() {
            for call in connection.take_requests(&self.config, &self.outbox) {
                self.dispatcher.call(call);
            }
        }
        // Write again: the calls that have just started may have ready answers, which leave in the
        // same round.
        self.deliver_answers();
        self.write();
    }

    fn write(&mut self) {
        for connection in self.connections.values_mut() {
            connection.write(&self.config);
        }
    }

    fn drop_finished(&mut self) {
        let now = Instant::now();
        let config = &self.config;
        self.connections.retain(|_, connection| {
            !connection.is_closed() && connection.deadline(config).is_none_or(|due| due > now)
        });
        if self.spare.is_none() {
            self.spare = spare_descriptor();
        }
    }
}

/// A descriptor that is only reserved.
fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Some(libc::EMFILE), Some(libc::ENFILE)].contains(&error.raw_os_error())
}

fn peer_of(stream: &UnixStream, roles: &RoleTable) -> io::Result<Peer> {
    stream.set_nonblocking(true)?;
    let credentials = getsockopt(stream, PeerCredentials)?;
    let (uid, gid) = (credentials.uid(), credentials.gid());
    Ok(Peer { pid: credentials.pid(), uid, gid, role: roles.role_of(uid, gid), is_host: false })
}

/// The time until `deadline`, rounded up, so that the deadline has passed when `poll` returns.
fn until(deadline: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let wait_ms = deadline.saturating_duration_since(now).as_millis() + 1;
    PollTimeout::try_from(wait_ms).unwrap_or(PollTimeout::MAX)
}
