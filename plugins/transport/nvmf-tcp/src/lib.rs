//! NVMe/TCP 1.0 for the NVMe over Fabrics target.
//!
//! `listen.rs` accepts connections on the app thread and hands them to the target, which gives each to a group
//! (`group.rs`: rounds over its sockets, each a `socket.rs`). What is said on a connection is `connection/`, which knows no sockets;
//! `options.rs` is what `nvmf_create_transport` sets. `docs/nvmf-tcp.md` has the words and the way of an I/O.
#![forbid(unsafe_code)]

mod connection;
mod group;
mod listen;
mod options;
mod socket;

use drivebay_sdk::nvmf::transport::{self, Acceptor, Address, Transport};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::{Error, Result, Sink, Stopping, errno, plugin, thread};
use group::TcpGroup;
use listen::{Listener, describe};
use options::{Options, Settings};
use std::cell::RefCell;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;

plugin! {
    name: "nvmf-tcp",
    kind: "transport",
    provides: ["nvmf.transport/TCP"],
    requires: ["bay.nvmf_target/1"],
    methods: [],
    start: transport::register::<Tcp>,
    stop: stop,
}

fn stop(stopping: Stopping) {
    if let Err(error) = transport::unregister(move |_| drop(stopping)) {
        tracing::error!("{error}");
    }
}

/// Readable, as poll(2) says it.
const POLLIN: u32 = 1;

/// The TCP transport: what listens.
#[derive(Debug)]
pub(crate) struct Tcp {
    options: Options,
    listeners: Rc<RefCell<Vec<Listener>>>,
    poller: Poller,
}

impl Transport for Tcp {
    const TRTYPE: &'static str = "TCP";
    type Settings = Settings;
    type Incoming = TcpStream;
    type Group = TcpGroup;

    fn create(options: &str, acceptor: Acceptor<Self>) -> Result<(Self, Settings)> {
        let options = Options::parse(options)?;
        let settings = options.settings();
        let listeners = Rc::default();
        let accepting = Accepting {
            listeners: Rc::clone(&listeners),
            acceptor,
            accepted: Vec::new(),
            interval_ns: options.acceptor_poll_ns(),
            next_ns: 0,
        };
        let poller = Poller::register("nvmf_tcp_accept", 0, accepting)?;
        Ok((Self { options, listeners, poller }, settings))
    }

    fn dump(&self, sink: &Sink<'_>) {
        sink.write_json(&self.options);
    }

    fn listen(&mut self, address: &Address) -> Result<()> {
        let (backlog, patience_ms) = (self.options.acceptor_backlog(), self.options.patience_ms());
        let listener = Listener::bind(listen::parse(address)?, backlog, patience_ms)?;
        self.poller.wake_fd(listener.socket.as_raw_fd(), POLLIN)?;
        self.listeners.borrow_mut().push(listener);
        Ok(())
    }

    fn stop_listen(&mut self, address: &Address) -> Result<()> {
        let address = listen::parse(address)?;
        let mut listeners = self.listeners.borrow_mut();
        let Some(place) = listeners.iter().position(|listener| listener.address() == address)
        else {
            return Err(Error::new(errno::ENOENT, format!("not listening on {address}")));
        };
        let listener = listeners.swap_remove(place);
        self.poller.wake_fd(listener.socket.as_raw_fd(), 0)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        for listener in self.listeners.borrow_mut().drain(..) {
            // The poller goes next and takes with it what is left.
            let _ = self.poller.wake_fd(listener.socket.as_raw_fd(), 0);
        }
    }
}

/// Looks for new connections: every so often while the reactor runs, and before it sleeps.
#[derive(Debug)]
struct Accepting {
    listeners: Rc<RefCell<Vec<Listener>>>,
    acceptor: Acceptor<Tcp>,
    accepted: Vec<TcpStream>,
    interval_ns: u64,
    next_ns: u64,
}

impl Accepting {
    fn accept(&mut self) -> bool {
        for listener in self.listeners.borrow().iter() {
            listener.accept(&mut self.accepted);
        }
        let did = !self.accepted.is_empty();
        for stream in self.accepted.drain(..) {
            // A peer that is gone already has no address.
            let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { continue };
            let handed = self.acceptor.hand_over(stream, &describe(local), &describe(peer));
            if let Err(error) = handed {
                tracing::warn!("connection from {peer} refused: {error}");
            }
        }
        did
    }
}

impl Poll for Accepting {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let now_ns = thread::now_ns();
        if now_ns < self.next_ns {
            return false;
        }
        self.next_ns = now_ns.saturating_add(self.interval_ns);
        self.accept()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.accept()
    }

    /// What wakes the reactor is I/O more often than a connection: that goes first. A connection alone is
    /// found a moment later, before the next sleep.
    fn woke(&mut self) {
        self.next_ns = thread::now_ns().saturating_add(self.interval_ns);
    }
}
