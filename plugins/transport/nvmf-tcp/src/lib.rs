//! NVMe/TCP 1.0 for the NVMe over Fabrics target.
//!
//! `listen.rs` accepts connections on the app thread and hands them to the target, which gives each to a group
//! (`group.rs`: rounds over its sockets, each a `socket.rs`). `connection/` is the protocol of a connection, without
//! sockets. `options.rs` has the options of `nvmf_create_transport`. `docs/nvmf-tcp.md` explains the words and the path
//! of an I/O.
#![forbid(unsafe_code)]

mod connection;
mod group;
mod listen;
mod options;
mod places;
mod share;
mod socket;

use drivebay_sdk::nvmf::transport::{self, Acceptor, Address, Transport};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{App, Error, Result, Sink, Stopping, buf, errno, plugin, thread};
use group::TcpGroup;
use listen::{Arrived, Exhausted, Listener, describe};
use options::{Options, Settings};
use places::Places;
use std::cell::{OnceCell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

plugin! {
    name: "nvmf-tcp",
    kind: "transport",
    provides: ["nvmf.transport/TCP"],
    requires: ["bay.nvmf_target/1"],
    methods: [],
    unsafe(threads_move),
    start: transport::register::<Tcp>,
    stop: stop,
}

fn stop(app: &App, stopping: Stopping) {
    transport::unregister(app, move |_, _| drop(stopping));
}

/// Readable, as in poll(2).
const POLLIN: u32 = 1;

/// How long the transport accepts nothing after descriptors or memory have run out, in nanoseconds.
const PAUSE_NS: u64 = 250_000_000;
/// How often it logs that, in nanoseconds.
const LOG_EVERY_NS: u64 = 60_000_000_000;

/// The TCP transport: its listeners.
#[derive(Debug)]
pub(crate) struct Tcp {
    options: Options,
    listening: Rc<Listening>,
}

/// The listeners, and the poller that they wake up.
#[derive(Debug, Default)]
struct Listening {
    listeners: RefCell<Vec<Listener>>,
    poller: OnceCell<Poller>,
}

impl Listening {
    /// Sets whether new connections wake the thread.
    fn wake_by(&self, listener: &Listener, is_on: bool) -> Result<()> {
        let Some(poller) = self.poller.get() else { return Ok(()) };
        poller.wake_fd(listener.socket.as_raw_fd(), if is_on { POLLIN } else { 0 })
    }

    fn wake_by_all(&self, is_on: bool) {
        for listener in self.listeners.borrow().iter() {
            if let Err(error) = self.wake_by(listener, is_on) {
                tracing::debug!("listening on {}: {error}", listener.address());
            }
        }
    }
}

impl Transport for Tcp {
    const TRTYPE: &'static str = "TCP";
    type Settings = Settings;
    type Incoming = Arrived;
    type Group = TcpGroup;

    fn create(options: &str, acceptor: Acceptor<Self>) -> Result<(Self, Settings)> {
        let options = Options::parse(options)?;
        options.check_pools(buf::pool_for)?;
        let settings = options.settings();
        let listening: Rc<Listening> = Rc::default();
        let accepting = Accepting {
            listening: Rc::downgrade(&listening),
            acceptor,
            places: options.places(),
            accepted: Vec::new(),
            interval_ns: options.acceptor_poll_ns(),
            next_ns: 0,
            paused_until_ns: None,
            logged_ns: None,
        };
        let poller = Poller::register("nvmf_tcp_accept", 0, accepting)?;
        // There was no listener until now.
        let _ = listening.poller.set(poller);
        Ok((Self { options, listening }, settings))
    }

    fn dump(&self, sink: &Sink<'_>) {
        sink.write_json(&self.options);
    }

    fn listen(&mut self, address: &Address) -> Result<()> {
        let (backlog, patience_ms) = (self.options.acceptor_backlog(), self.options.patience_ms());
        let listener = Listener::bind(listen::parse(address)?, backlog, patience_ms)?;
        self.listening.wake_by(&listener, true)?;
        self.listening.listeners.borrow_mut().push(listener);
        Ok(())
    }

    fn stop_listen(&mut self, address: &Address) -> Result<()> {
        let address = listen::parse(address)?;
        let mut listeners = self.listening.listeners.borrow_mut();
        let Some(place) = listeners.iter().position(|listener| listener.address() == address)
        else {
            return Err(Error::new(errno::ENOENT, format!("not listening on {address}")));
        };
        let listener = listeners.swap_remove(place);
        drop(listeners);
        self.listening.wake_by(&listener, false)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Only the wake-ups must end here. The fields are dropped next: the poller, and with it the listeners.
        self.listening.wake_by_all(false);
    }
}

/// Checks for new connections: at intervals while the reactor runs, and before it sleeps.
#[derive(Debug)]
struct Accepting {
    listening: Weak<Listening>,
    acceptor: Acceptor<Tcp>,
    places: Arc<Places>,
    accepted: Vec<Arrived>,
    interval_ns: u64,
    next_ns: u64,
    /// The time until which nothing is accepted, because a resource has run out.
    paused_until_ns: Option<u64>,
    /// The time of the last log line about that.
    logged_ns: Option<u64>,
}

impl Accepting {
    fn accept(&mut self, now_ns: u64) -> bool {
        let Some(listening) = self.listening.upgrade() else { return false };
        match self.paused_until_ns {
            Some(until_ns) if now_ns < until_ns => return false,
            Some(_) => {
                self.paused_until_ns = None;
                listening.wake_by_all(true);
            }
            None => {}
        }
        let exhausted = {
            let listeners = listening.listeners.borrow();
            let mut results = listeners.iter().map(|l| l.accept(&self.places, &mut self.accepted));
            results.find_map(Result::err)
        };
        if let Some(exhausted) = exhausted {
            self.pause(&listening, exhausted, now_ns);
        }
        let did = !self.accepted.is_empty();
        for arrived in self.accepted.drain(..) {
            // Drop the connection: it has no address, because the peer has already closed it.
            let (Ok(local), Some(peer)) = (arrived.stream.local_addr(), arrived.peer) else {
                continue;
            };
            static REFUSED: Throttle = Throttle::new();
            let handed = self.acceptor.hand_over(arrived, &describe(local), &describe(peer));
            if let (Err(error), Some(left_out)) = (handed, REFUSED.admit()) {
                tracing::warn!(
                    "connection from {peer} refused: {error} ({left_out} such lines left out)"
                );
            }
        }
        did
    }

    /// Accepts nothing for a while. The listeners stay readable, so they must not wake the thread again and again
    /// meanwhile.
    fn pause(&mut self, listening: &Listening, Exhausted(error): Exhausted, now_ns: u64) {
        self.paused_until_ns = Some(now_ns.saturating_add(PAUSE_NS));
        listening.wake_by_all(false);
        if self.logged_ns.is_none_or(|logged_ns| now_ns >= logged_ns.saturating_add(LOG_EVERY_NS)) {
            self.logged_ns = Some(now_ns);
            tracing::error!(
                "no new connection can be accepted: {error}; hosts wait until descriptors are free or the limit is raised \
                 (ulimit -n, LimitNOFILE=)"
            );
        }
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
        self.accept(now_ns)
    }

    fn prepare_sleep(&mut self) -> bool {
        self.accept(thread::now_ns())
    }

    fn next_ns(&mut self) -> u64 {
        self.paused_until_ns.unwrap_or(u64::MAX)
    }

    /// A wake-up is for I/O more often than for a connection, so I/O goes first. A connection is found a moment later,
    /// before the next sleep.
    fn woke(&mut self) {
        self.next_ns = thread::now_ns().saturating_add(self.interval_ns);
    }
}
