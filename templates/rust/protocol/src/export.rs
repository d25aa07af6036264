//! An export: one bdev on one socket.

use crate::connection::Connection;
use drivebay_sdk::bdev::{self, Channel, Claim, Desc, Event};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;

/// The event "readable" of poll(2).
const POLLIN: u32 = 1;
/// Maximum number of connections per export.
const CONNECTIONS_MAX: usize = 64;

/// One bdev on one socket, and the poller that serves it.
#[derive(Debug)]
pub struct Export {
    path: String,
    poller: Poller,
    serving: Rc<RefCell<Serving>>,
}

/// The state that the poller uses.
struct Serving {
    /// Called when no I/O is in flight any more; `None` while the export serves.
    ending: Option<Box<dyn FnOnce()>>,
    /// Readable when a socket has an event. The thread sleeps on it.
    epoll: OwnedFd,
    listener: UnixListener,
    connections: Vec<Connection>,
    // Fields are dropped in this order: a channel before its descriptor.
    channel: Channel,
    desc: Desc,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Export {
    /// Opens the bdev and starts listening.
    ///
    /// # Errors
    /// When there is no such bdev, another claim conflicts, or the path is taken.
    pub fn open(app: &App, bdev_name: &str, path: String) -> Result<Self> {
        let of_path = path.clone();
        let desc = bdev::open(app, bdev_name, true, move |_, event| {
            if let Event::Remove = event {
                crate::base_removed(&of_path);
            }
        })?;
        desc.claim(app, Claim::ExclusiveWrite)?;
        let channel = desc.channel()?;
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        epoll::add(&epoll, &listener, EventData::new_u64(0), EventFlags::IN)
            .map_err(std::io::Error::from)?;
        let fd = epoll.as_raw_fd();
        let connections = Vec::new();
        let serving = Serving { ending: None, epoll, listener, connections, channel, desc };
        let serving = Rc::new(RefCell::new(serving));
        let poller = Poller::register("{{name}}", 0, Round(Rc::clone(&serving)))?;
        poller.wake_fd(fd, POLLIN)?;
        Ok(Self { path, poller, serving })
    }

    /// Path of the socket.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Ends the export: closes the connections, and calls `then` when the I/O in flight has completed.
    pub fn end(self, then: impl FnOnce() + 'static) {
        let Self { path, poller, serving } = self;
        let _ = std::fs::remove_file(path); // an error means that it is gone already
        let mut now = serving.borrow_mut();
        for connection in &mut now.connections {
            connection.hang_up();
        }
        let kept = Rc::clone(&serving);
        now.ending = Some(Box::new(move || {
            drop(poller); // a poller may drop itself while it runs
            drop(kept); // drops the channel and the descriptor, which releases the claim
            then();
        }));
    }
}

struct Round(Rc<RefCell<Serving>>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let mut serving = self.0.borrow_mut();
        let did = serving.round();
        if serving.connections.is_empty()
            && let Some(end) = serving.ending.take()
        {
            drop(serving);
            end();
            return true;
        }
        did
    }

    // The epoll is level-triggered, so data that has already arrived ends the sleep at once.
    fn prepare_sleep(&mut self) -> bool {
        let serving = self.0.borrow();
        let is_ending = serving.ending.is_some();
        is_ending || serving.connections.iter().any(Connection::has_work)
    }
}

impl Serving {
    fn round(&mut self) -> bool {
        let Ok(info) = self.desc.info() else { return false };
        let mut did = false;
        if self.ending.is_none()
            && self.connections.len() < CONNECTIONS_MAX
            && let Ok((stream, _)) = self.listener.accept()
        {
            self.connections.extend(Connection::new(stream, &self.epoll).ok());
            did = true;
        }
        for connection in &mut self.connections {
            did |= connection.round(&self.channel, info.block_size(), &self.epoll);
        }
        self.channel.flush(); // a burst of submits has ended
        self.connections.retain(|connection| !connection.has_ended());
        did
    }
}
