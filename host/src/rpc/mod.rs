//! The control plane: SPDK's JSON-RPC 2.0 over a Unix socket.
//!
//! ```text
//! client ── socket ──> Server (on its own thread) ── Call ──> Registry ──> handler
//!        <─────────── answers, woken by an eventfd <── Responder, from any thread
//! ```
//!
//! - [`Server`] owns the socket and its connections. None of it runs on a reactor.
//! - [`Registry`] has the methods: who registered them, who may call them, and when.
//! - [`Call`] is one request, with the [`Responder`] that answers it exactly once.
//! - [`Client`] is the other side.
#![forbid(unsafe_code)]

mod builtin;
mod call;
mod client;
mod config;
mod connection;
mod listener;
mod outbox;
mod registry;
mod server;
#[cfg(test)]
mod tests;
mod unknown;

pub(crate) use builtin::GetMethods;
pub use builtin::register_builtin;
pub use call::{Call, Dispatcher, Outcome, Peer, Responder, RoleTable};
pub use client::{Client, ClientError};
pub use config::Config;
pub use listener::ListenError;
pub use registry::{Handler, Owner, RegisterError, Registry, UnknownHook, async_handler, handler};
pub use server::Server;
pub(crate) use unknown::has_no_effect;

/// The default path of the socket: `$DRIVEBAY_SOCKET`, else `drivebay.sock` in the runtime folder.
///
/// # Errors
/// There is no usable runtime folder.
pub fn default_socket() -> drivebay_core::Result<std::path::PathBuf> {
    match std::env::var_os("DRIVEBAY_SOCKET") {
        Some(path) => Ok(path.into()),
        None => Ok(drivebay_core::env::runtime::folder()?.join("drivebay.sock")),
    }
}
