//! `{{name}}`: NVMe over Fabrics over Unix sockets. Replace this with your fabric.
//!
//! `listen` and the acceptor run on the app thread. They pass connections to the target, which adds each to a group
//! (`group.rs`). Each poll group's thread has one group. `frame.rs` has the format of commands and responses.
#![forbid(unsafe_code)]

mod frame;
mod group;

use drivebay_sdk::nvmf::transport::{self, Acceptor, Address, Transport};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use drivebay_sdk::{Sink, Stopping};
use group::Lanes;
use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

plugin! {
    name: "{{name}}",
    kind: "transport",
    provides: ["nvmf.transport/{{NAME}}"],  // so nvmf_create_transport loads this plugin
    requires: ["bay.nvmf_target/1"],        // the target; the host loads it first
    methods: [],
    start: transport::register::<Unix>,
    stop: stop,
}

fn stop(app: &App, stopping: Stopping) {
    transport::unregister(app, move |_, _| drop(stopping));
}

/// The event "readable" of poll(2).
const POLLIN: u32 = 1;
/// Maximum number of connections accepted per round, so that a burst of them does not block the app thread.
const BURST: usize = 16;

/// The transport: its listening sockets.
#[derive(Debug)]
pub struct Unix {
    listeners: Listeners,
    poller: Poller,
}

/// Paths and their sockets.
type Listeners = Rc<RefCell<Vec<(String, UnixListener)>>>;

impl Transport for Unix {
    const TRTYPE: &'static str = "{{NAME}}";
    type Settings = ();
    type Incoming = UnixStream;
    type Group = Lanes;

    // `_options`: the parameters of nvmf_create_transport, as JSON text.
    fn create(_options: &str, acceptor: Acceptor<Self>) -> Result<(Self, ())> {
        let listeners = Listeners::default();
        let accepting = Accepting { listeners: Rc::clone(&listeners), acceptor };
        let poller = Poller::register("{{name}}_accept", 1000, accepting)?;
        Ok((Self { listeners, poller }, ()))
    }

    // The target reads its limits from these options.
    fn dump(&self, sink: &Sink<'_>) {
        let (max_io_size, max_queue_depth) = (frame::DATA_LEN_MAX, group::DEPTH);
        sink.write(&format!(
            r#"{{"trtype":"{{NAME}}","max_io_size":{max_io_size},"max_queue_depth":{max_queue_depth}}}"#
        ));
    }

    fn listen(&mut self, address: &Address) -> Result<()> {
        let listener = UnixListener::bind(&address.traddr)?;
        listener.set_nonblocking(true)?;
        self.poller.wake_fd(listener.as_raw_fd(), POLLIN)?;
        self.listeners.borrow_mut().push((address.traddr.clone(), listener));
        Ok(())
    }

    fn stop_listen(&mut self, address: &Address) -> Result<()> {
        let mut listeners = self.listeners.borrow_mut();
        let Some(place) = listeners.iter().position(|(path, _)| *path == address.traddr) else {
            return Err(Error::new(errno::ENOENT, format!("not listening on {}", address.traddr)));
        };
        let (path, listener) = listeners.swap_remove(place);
        let _ = std::fs::remove_file(path); // an error means that it is gone already
        self.poller.wake_fd(listener.as_raw_fd(), 0)
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        for (path, listener) in self.listeners.borrow_mut().drain(..) {
            let _ = self.poller.wake_fd(listener.as_raw_fd(), 0);
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Accepts new connections: every millisecond while the reactor runs, and at once when it wakes up.
struct Accepting {
    listeners: Listeners,
    acceptor: Acceptor<Unix>,
}

impl Accepting {
    fn accept(&self) -> bool {
        let mut accepted = Vec::new();
        for (path, listener) in self.listeners.borrow().iter() {
            let streams = std::iter::from_fn(|| listener.accept().ok()).take(BURST);
            accepted.extend(streams.map(|(stream, _)| (path.clone(), stream)));
        }
        let did = !accepted.is_empty();
        for (path, stream) in accepted {
            let here = Address { trtype: "{{NAME}}".into(), traddr: path, ..Address::default() };
            let handed = stream
                .set_nonblocking(true)
                .map_err(Error::from)
                .and_then(|()| self.acceptor.hand_over(stream, &here, &here));
            if let Err(error) = handed {
                warn!("a connection was refused: {error}");
            }
        }
        did
    }
}

impl Poll for Accepting {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.accept()
    }

    // The descriptors are armed: a connection that arrives from here on ends the sleep.
    fn prepare_sleep(&mut self) -> bool {
        self.accept()
    }
}
