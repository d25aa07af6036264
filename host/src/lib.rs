//! The Drivebay storage server.

pub mod rpc;
