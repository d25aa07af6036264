//! Virtqueues: the device's side, over memory that a guest shares and may spoil at any time, and in [`driver`] the driver's.
//!
//! ```text
//! memory tables (vhost-user) ─▶ GuestMemory ─┐
//! ring addresses ────────────────────────────┴─▶ Queue::pop ─▶ Chain ─▶ the device ─▶ Queue::push ─▶ Queue::publish
//! ```
//!
//! Nothing of a guest is trusted. A descriptor, an index or an address is read once, into the host's own memory, and
//! checked there; a chain has a bound; a queue that breaks a rule is [`Broken`] and stops, and no other queue
//! notices. No reference to guest memory is ever made: rings are reached through atomics, data by copying.
//!
//! All of a queue happens on one lightweight thread.

mod chain;
pub mod driver;
mod inflight;
mod log;
mod memory;
mod packed;
mod queue;
mod request;
mod split;

#[cfg(test)]
mod tests;

pub use chain::{Chain, PIECES_MAX, Piece};
pub use inflight::{Inflight, InflightArea};
pub use log::DirtyLog;
pub use memory::GuestMemory;
pub use queue::{Broken, Features, Log, Queue, Rings};
pub use request::Request;
