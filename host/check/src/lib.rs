//! The conformance suites of `drivebay plugin check`: a plugin, loaded into a real host, is held
//! against what the ABI asks of it.
//!
//! ```text
//! suite ── rig ── client, batch ──▶ bus ──▶ guard ──▶ the plugin's module
//!                     └───────────────────────┘ no bus in between
//!            └ base (the disk below a filter) ◀── bus ◀── guard ◀── the plugin
//! ```
//!
//! The *guard* stands between plugin and host. It hands on what goes through, gives the module
//! requests of its own, and notes every broken rule ([`breach`]): a second completion, one on another
//! thread, a touch of a request that ended, a callback that blocks ([`calls`]). The *suite* makes I/O
//! as a client, or straight at the module where the bus would refuse, and judges what comes back.
//!
//! The program that uses this crate loads the plugin and answers [`Host`](rig::Host).

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
