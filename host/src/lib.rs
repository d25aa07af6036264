//! The Drivebay storage server: the loader of plugins, the control plane and the program.

pub mod loader;
