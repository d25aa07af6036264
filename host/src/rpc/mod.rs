//! The control plane: SPDK's JSON-RPC 2.0 over a Unix socket.
//!
//! ```text
//! client ── socket ──> Server (a thread of its own) ── Call ──> Registry ──> handler
//!        <─────────── answers, woken by an eventfd <── Responder, from any thread
//! ```
//!
//! - [`Server`] owns the socket and its connections; nothing of it runs on a reactor.
//! - [`Registry`] knows the methods: who registered them, who may call them and when.
//! - [`Call`] carries one request, and the [`Responder`] that answers it exactly once.
//! - [`Client`] is the other end; [`command`] is `drivebay rpc`.
#![forbid(unsafe_code)]

mod builtin;
mod call;
mod client;
pub mod command;
mod connection;
mod listener;
mod registry;
mod server;
#[cfg(test)]
mod tests;
mod unknown;

pub(crate) use builtin::GetMethods;
pub use builtin::register_builtin;
pub use call::{Call, Dispatcher, Outcome, Peer, Responder, RoleTable};
pub use client::{Client, ClientError};
pub use listener::ListenError;
pub use registry::{Handler, Owner, RegisterError, Registry, UnknownHook, async_handler, handler};
pub use server::{Config, Server};
pub(crate) use unknown::has_no_effect;

/// Where the server listens and clients connect unless told otherwise: `$DRIVEBAY_SOCKET`, else
/// `drivebay.sock` in the runtime folder.
///
/// # Errors
/// There is no runtime folder.
pub fn default_socket() -> drivebay_core::Result<std::path::PathBuf> {
    match std::env::var_os("DRIVEBAY_SOCKET") {
        Some(path) => Ok(path.into()),
        None => Ok(drivebay_core::env::runtime::folder()?.join("drivebay.sock")),
    }
}
