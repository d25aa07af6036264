//! The fabric's side of NVMe over Fabrics: transports, their groups, and the requests they lend to the target.
//!
//! A plugin implements [`Transport`] (what listens, on the app thread) and [`Group`] (what serves connections,
//! one on each poll group's thread) and calls [`register`]. The target then makes the transport and its groups.
//!
//! ```text
//!  socket ─▶ Acceptor::hand_over ─▶ target ─▶ Group::add(incoming, Qpair)
//!  bytes  ─▶ Group::poll ─▶ Qpair::exec(Request) ─▶ target ─▶ … ─▶ Group::completed(Request) ─▶ Group::flush
//! ```
//!
//! A [`Request`] is a value: lending it moves it to the target, completion moves it back. What the target says
//! while a group is at work (a completion from inside `exec`, a close) is queued and told before the round ends,
//! so a group is never entered twice.

mod acceptor;
mod address;
#[cfg(any(test, feature = "testing"))]
mod fake;
mod qpair;
mod registration;
mod request;
mod round;
#[cfg(test)]
mod tests;
mod thunks;

pub use acceptor::Acceptor;
pub use address::Address;
#[cfg(any(test, feature = "testing"))]
pub use fake::FakeTarget;
pub use qpair::Qpair;
pub use registration::{register, unregister};
pub use request::{Request, Transfer};

use crate::error::Result;
use crate::host::Sink;
use std::os::fd::RawFd;

/// A fabric of the target, such as TCP. It lives on the app thread; its groups do not.
pub trait Transport: Sized + 'static {
    /// Transport type as RPCs name it, such as `TCP`.
    const TRTYPE: &'static str;
    /// What a group needs to know, read on the groups' threads.
    type Settings: Send + Sync + 'static;
    /// A connection that was accepted and belongs to no group yet.
    type Incoming: Send + 'static;
    /// One thread's share.
    type Group: Group<Transport = Self>;

    /// Makes the transport from the parameters of `nvmf_create_transport`, as JSON text. `acceptor` takes its connections.
    ///
    /// # Errors
    /// `EINVAL` naming the option that is not allowed; the text is logged.
    fn create(options: &str, acceptor: Acceptor<Self>) -> Result<(Self, Self::Settings)>;

    /// Writes the options in force as one JSON object.
    fn dump(&self, sink: &Sink<'_>);

    /// Begins to listen.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, or `EINVAL` for an address that is none.
    fn listen(&mut self, address: &Address) -> Result<()>;

    /// Listens no more; connections stay.
    ///
    /// # Errors
    /// `ENOENT` when it does not listen there.
    fn stop_listen(&mut self, address: &Address) -> Result<()>;
}

/// One thread's share of a transport: its connections, each known by a key that the group chooses.
///
/// A round is [`poll`](Self::poll), then what the target has said meanwhile, then [`flush`](Self::flush).
pub trait Group: Sized + 'static {
    /// What it is a share of.
    type Transport: Transport<Group = Self>;
    /// The fabric's part of a request.
    type Body: 'static;

    /// Makes a group on the current thread.
    ///
    /// # Errors
    /// When the system lacks something, such as descriptors.
    fn open(settings: &<Self::Transport as Transport>::Settings) -> Result<Self>;

    /// A descriptor that is readable when there is something to do; the same for the group's life.
    fn wake_fd(&self) -> RawFd;

    /// Serves a connection from now on as `qpair`; returns its key.
    ///
    /// # Errors
    /// The connection is closed then.
    fn add(
        &mut self,
        incoming: <Self::Transport as Transport>::Incoming,
        qpair: Qpair<Self::Body>,
    ) -> Result<usize>;

    /// Receives, and lends what is complete; whether it did something.
    fn poll(&mut self) -> bool;

    /// A request comes back with its response.
    fn completed(&mut self, key: usize, request: Request<Self::Body>);

    /// The target accepted the connection as queue `qid` with `size` entries.
    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool);

    /// Ends a connection once the responses that came back are sent; then [`Qpair::disconnected`].
    fn close(&mut self, key: usize);

    /// The target has let go of the connection: the key is free.
    fn free(&mut self, key: usize);

    /// Sends what is ready, at the end of a round; whether it did something.
    fn flush(&mut self) -> bool;

    /// Whether there is work after all, before the thread sleeps until the descriptor or the deadline.
    fn prepare_sleep(&mut self) -> bool;

    /// When a round must come, on the host's clock in nanoseconds; `u64::MAX` = when woken.
    fn next_ns(&self) -> u64;
}
