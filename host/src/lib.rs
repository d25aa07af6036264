//! The Drivebay storage server.
//!
//! ```text
//! cli ─> app: start and stop, in order
//!          ├─ rpc: the socket, the methods' registry     methods: the host's own methods
//!          ├─ loader: plugins                            notifications, subsystems: what they tell
//!          ├─ config: files that calls are read from and kept in
//!          ├─ host: what these share
//!          ├─ log, signals, sandbox
//!          ├─ perf: a host for one measurement
//!          ├─ lvol: checks and repairs stores of logical volumes
//!          ├─ check: a host for one plugin that is checked
//!          └─ project: begins a plugin outside of this repository
//! ```

pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod host;
pub mod loader;
pub mod log;
pub mod lvol;
pub mod methods;
pub mod notifications;
pub mod perf;
pub mod project;
pub mod rpc;
pub mod sandbox;
mod signals;
mod slices;
pub mod subsystems;
