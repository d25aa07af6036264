//! The Drivebay storage server.
fn main() {}
