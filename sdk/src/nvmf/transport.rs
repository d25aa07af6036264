//! The fabric's side of NVMe over Fabrics: transports, their groups, and the requests that they lend to the target.
//!
//! A plugin implements [`Transport`] (listens, on the app thread) and [`Group`] (serves connections, one group on each
//! poll group's thread) and calls [`register`]. The target then creates the transport and its groups.
//!
//! ```text
//!  socket ─▶ Acceptor::hand_over ─▶ target ─▶ Group::add(incoming, Qpair)
//!  bytes  ─▶ Group::poll ─▶ Qpair::exec(Request) ─▶ target ─▶ … ─▶ Group::completed(Request) ─▶ Group::flush
//! ```
//!
//! Lending a [`Request`] moves it to the target; completion moves it back. The target may call the fabric while a
//! group is running, for example complete a request during `exec`, or close a connection. The SDK queues such a call
//! and delivers it before the round ends, so a group's functions never run twice at the same time.

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
pub(crate) use registration::abandon;
pub use registration::{register, unregister};
pub use request::{Request, Transfer};

use crate::error::Result;
use crate::host::Sink;
use std::os::fd::RawFd;

/// A fabric of the target, such as TCP. It lives on the app thread; its groups live on their own threads.
pub trait Transport: Sized + 'static {
    /// Transport type, as in RPCs, such as `TCP`.
    const TRTYPE: &'static str;
    /// Settings for the groups, which read them on their threads.
    type Settings: Send + Sync + 'static;
    /// An accepted connection that has no group yet.
    type Incoming: Send + 'static;
    /// One thread's part of the transport.
    type Group: Group<Transport = Self>;

    /// Creates the transport from the parameters of `nvmf_create_transport`, as JSON text. `acceptor` passes its
    /// connections to the target.
    ///
    /// # Errors
    /// `EINVAL`, naming the option that is not allowed. The SDK logs the text.
    fn create(options: &str, acceptor: Acceptor<Self>) -> Result<(Self, Self::Settings)>;

    /// Writes the current options as one JSON object.
    fn dump(&self, sink: &Sink<'_>);

    /// Starts listening on an address.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, or `EINVAL` for an invalid address.
    fn listen(&mut self, address: &Address) -> Result<()>;

    /// Stops listening on an address. Existing connections stay.
    ///
    /// # Errors
    /// `ENOENT` when the transport does not listen there.
    fn stop_listen(&mut self, address: &Address) -> Result<()>;
}

/// One thread's part of a transport: its connections. The group chooses a key for each.
///
/// A round is [`poll`](Self::poll), then the calls that the target made meanwhile, then [`flush`](Self::flush).
pub trait Group: Sized + 'static {
    /// The transport that the group belongs to.
    type Transport: Transport<Group = Self>;
    /// The fabric's part of a request.
    type Body: 'static;

    /// Creates a group on the current thread.
    ///
    /// # Errors
    /// When the system is out of a resource, such as descriptors.
    fn open(settings: &<Self::Transport as Transport>::Settings) -> Result<Self>;

    /// A descriptor that is readable when the group has work. It must not change during the group's life.
    fn wake_fd(&self) -> RawFd;

    /// Adds a connection and returns its key. `qpair` is its link to the target.
    ///
    /// # Errors
    /// The SDK then closes the connection.
    fn add(
        &mut self,
        incoming: <Self::Transport as Transport>::Incoming,
        qpair: Qpair<Self::Body>,
    ) -> Result<usize>;

    /// Receives data and lends complete requests to the target. Returns whether it did work.
    fn poll(&mut self) -> bool;

    /// The target returns a request with its response.
    fn completed(&mut self, key: usize, request: Request<Self::Body>);

    /// The target accepted the connection as queue `qid` with `size` entries.
    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool);

    /// Closes a connection after the responses of completed requests are sent. The group then calls
    /// [`Qpair::disconnected`].
    fn close(&mut self, key: usize);

    /// The target has released the connection. The key may be used again.
    fn free(&mut self, key: usize);

    /// Sends what is ready, at the end of a round. Returns whether it did work.
    fn flush(&mut self) -> bool;

    /// Returns whether there is work, before the thread sleeps until the descriptor is readable or the deadline is reached.
    fn prepare_sleep(&mut self) -> bool;

    /// When the next round must run, on the host's clock in nanoseconds; `u64::MAX` = only when woken.
    fn next_ns(&self) -> u64;
}
