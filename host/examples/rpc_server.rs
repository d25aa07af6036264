//! The control plane alone: serves the built-in methods until it is killed.
//!
//! `cargo run -p drivebay --example rpc_server -- /tmp/rpc.sock`

use drivebay::rpc::{Config, DEFAULT_SOCKET, Registry, Server, register_builtin};
use drivebay_spec_jsonrpc::State;
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| DEFAULT_SOCKET.into());
    let registry = Arc::new(Registry::new());
    register_builtin(&registry)?;
    registry.set_state(State::Runtime);
    let _server = Server::start(Config::new(path), registry)?;
    loop {
        std::thread::park();
    }
}
