//! The Drivebay storage server.
//!
//! ```text
//! cli ─> app: start and stop, in order
//!          ├─ rpc: the socket, the methods' registry     methods: the host's own methods
//!          ├─ loader: plugins                            notifications, subsystems: what they report
//!          ├─ config: the files from which calls are read and to which they are saved
//!          ├─ host: the state that these share
//!          ├─ log, signals, sandbox
//!          ├─ rpc_command: calls one method of a running host
//!          ├─ perf: a host for one measurement
//!          ├─ pci: lists PCI devices, and gives them to vfio-pci or back to the kernel
//!          ├─ lvol: checks and repairs stores of logical volumes
//!          ├─ check: a host for the check of one plugin
//!          └─ project: starts a plugin's project outside of this repository
//! ```

pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod external;
pub mod host;
pub mod loader;
pub mod log;
pub mod lvol;
pub mod methods;
pub mod notifications;
pub mod pci;
pub mod perf;
pub mod project;
pub mod rpc;
pub mod rpc_command;
pub mod sandbox;
mod signals;
mod slices;
pub mod subsystems;
