//! The conformance suites of `drivebay plugin check`: they load a plugin into a real host and check
//! it against the rules of the ABI.
//!
//! ```text
//! suite ── rig ── client, batch ──▶ bus ──▶ guard ──▶ the plugin's module
//!                     └───────────────────────┘ no bus in between
//!            └ base (the disk below a filter) ◀── bus ◀── guard ◀── the plugin
//! ```
//!
//! The *guard* is between the plugin and the host. It forwards calls, gives the module its own
//! requests, and records every broken rule ([`breach`]): a second completion, a completion on
//! another thread, a request that is touched after its completion, a callback that blocks
//! ([`calls`]). The *suite* submits I/O as a client, or directly to the module where the bus would
//! refuse it, and checks the results.
//!
//! The program that uses this crate loads the plugin and implements [`Host`](rig::Host).

pub mod base;
pub mod batch;
pub mod breach;
pub mod calls;
pub mod client;
pub mod growth;
pub mod guard;
pub mod model;
mod params;
pub mod random;
pub mod rig;
pub mod run;
pub mod suite;
pub mod verdict;
