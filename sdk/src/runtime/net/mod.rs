//! Stream sockets of lightweight threads: nonblocking, edge-triggered, over IPv4, IPv6 and Unix.
//!
//! - [`Listener`] accepts a burst of connections and pauses when descriptors run out.
//! - [`Stream`] reads and writes pieces, knows whether the socket may have more data, and counts bytes.
//! - [`Sockets`] has one thread's connections: it finds those that have work, and wakes the thread for them.
//! - [`connect`] and [`Stream::read_exact`] are futures, for the start of a connection.
//!
//! A server is a poller that calls [`Sockets::look`] once a round, then [`Sockets::round`] for the connections with work. See
//! `docs/plugin-guide/runtime.md`.

mod address;
mod connect;
mod layer;
mod listener;
mod pieces;
mod sockets;
mod stale;
mod stream;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use connect::connect;
pub use layer::{Layer, Socket};
pub use listener::{ListenOptions, Listener};
pub use pieces::{InPiece, OutPiece};
pub use sockets::{Next, Sockets};
pub use stale::remove_stale;
pub use stream::{Options, Stream};
