//! `panics-fabric`: a fabric without a network. `panics_connect` makes a connection that panics at a given place.
//!
//! `tests/e2e/test_panics.py` uses it to show that the target and its other fabrics continue.
#![forbid(unsafe_code)]

use drivebay_sdk::nvmf::transport::{self, Acceptor, Address, Group, Qpair, Request, Transport};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Method;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::{Sink, Stopping};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

plugin! {
    name: "panics-fabric",
    kind: "transport",
    provides: ["nvmf.transport/PANICS"],
    requires: ["bay.nvmf_target/1"],
    methods: ["panics_connect"],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

params! {
    /// Parameters of `panics_connect`.
    pub struct Connect {
        /// Where the connection panics: `add`, `poll`, `completed` or `nowhere`.
        at: String,
    }
}

static ACCEPTOR: OnApp<Acceptor<Fabric>> = OnApp::new();

fn start(app: &App) -> Result<()> {
    Method::immediate("panics_connect", "Connects.", |_, Connect { at }| connect(at))
        .register(app)?;
    transport::register::<Fabric>(app)
}

fn stop(app: &App, stopping: Stopping) {
    transport::unregister(app, move |_, _| drop(stopping));
}

fn connect(at: String) -> Result<bool> {
    let none = || Error::new(errno::ENODEV, "there is no transport PANICS");
    let here = Address { trtype: Fabric::TRTYPE.into(), ..Address::default() };
    ACCEPTOR.get().ok_or_else(none)?.hand_over(at, &here, &here)?;
    Ok(true)
}

fn panic_at(place: &str) {
    assert!(place.is_empty(), "told to panic in {place}");
}

struct Fabric;

impl Transport for Fabric {
    const TRTYPE: &'static str = "PANICS";
    type Settings = ();
    type Incoming = String;
    type Group = Lane;

    fn create(_options: &str, acceptor: Acceptor<Self>) -> Result<(Self, ())> {
        ACCEPTOR.get_or_init(|| acceptor)?;
        Ok((Self, ()))
    }

    fn dump(&self, sink: &Sink<'_>) {
        sink.write(r#"{"trtype":"PANICS","max_io_size":4096,"max_queue_depth":8}"#);
    }

    fn listen(&mut self, _: &Address) -> Result<()> {
        Ok(())
    }

    fn stop_listen(&mut self, _: &Address) -> Result<()> {
        Ok(())
    }
}

/// A poll group's connection; at most one.
struct Lane {
    connection: Option<Connection>,
    /// Never readable: the group works only after messages.
    bell: UnixStream,
    _other_end: UnixStream,
}

struct Connection {
    at: String,
    qpair: Qpair<()>,
    has_sent: bool,
}

impl Lane {
    fn reach(&self, place: &str) {
        if self.connection.as_ref().is_some_and(|connection| connection.at == place) {
            panic_at(place);
        }
    }
}

impl Group for Lane {
    type Transport = Fabric;
    type Body = ();

    fn open((): &()) -> Result<Self> {
        let (bell, other_end) = UnixStream::pair()?;
        Ok(Self { connection: None, bell, _other_end: other_end })
    }

    fn wake_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    fn add(&mut self, at: String, qpair: Qpair<()>) -> Result<usize> {
        self.connection = Some(Connection { at, qpair, has_sent: false });
        self.reach("add");
        Ok(0)
    }

    fn poll(&mut self) -> bool {
        self.reach("poll");
        let Some(connection) = self.connection.as_mut().filter(|one| !one.has_sent) else {
            return false;
        };
        connection.has_sent = true;
        // The target answers a command of no known kind with an error.
        let mut request = Request::new((), 4096, 4096);
        request.begin(&[0x7f; 64]);
        connection.qpair.exec(request);
        true
    }

    fn completed(&mut self, _: usize, _: Request<()>) {
        self.reach("completed");
    }

    fn connected(&mut self, _: usize, _: u16, _: u16, _: bool) {}

    fn close(&mut self, _: usize) {
        if let Some(connection) = &self.connection {
            connection.qpair.disconnected();
        }
    }

    fn free(&mut self, _: usize) {
        self.connection = None;
    }

    fn flush(&mut self) -> bool {
        false
    }

    fn prepare_sleep(&mut self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.has_sent)
    }

    fn next_ns(&self) -> u64 {
        u64::MAX
    }
}
