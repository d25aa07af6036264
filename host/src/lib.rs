//! The Drivebay storage server: the loader of plugins and the control plane.

pub mod loader;
pub mod rpc;
