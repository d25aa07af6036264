//! Stream sockets of lightweight threads: nonblocking, edge-triggered, over IPv4, IPv6 and Unix.
//!
//! - [`Listener`] accepts a burst of connections and rests when descriptors run out.
//! - [`Stream`] reads and writes pieces, knows whether the socket may have more, and counts bytes.
//! - [`Sockets`] is one thread's connections: which of them have something to do, and what ends the thread's sleep.
//! - [`connect`] and [`Stream::read_exact`] are futures, for the first words of a connection.
//!
//! A server is a poller that calls [`Sockets::look`] once a round, then [`Sockets::round`] for those with something to do. See
//! `docs/plugin-guide/runtime.md`.

mod address;
mod connect;
mod layer;
mod listener;
mod pieces;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use connect::connect;
pub use layer::{Layer, Socket};
pub use listener::{ListenOptions, Listener};
pub use pieces::{InPiece, OutPiece};
pub use sockets::{Next, Sockets};
pub use stream::{Options, Stream};
