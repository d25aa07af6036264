//! Virtqueues. [`Queue`] is the device's side, over memory that a guest shares and may change at any time. [`driver`] has the
//! driver's side.
//!
//! ```text
//! memory tables (vhost-user) ─▶ GuestMemory ─┐
//! ring addresses ────────────────────────────┴─▶ Queue::pop ─▶ Chain ─▶ the device ─▶ Queue::push ─▶ Queue::publish
//! ```
//!
//! The device does not trust the guest. It reads a descriptor, an index or an address once into its own memory, and checks it
//! there. A chain has a maximum length. If the guest breaks a rule of a queue, the queue returns [`Broken`] and stops, without
//! an effect on other queues.
//! The code creates no reference to guest memory, except to atomics in rings. It copies data.
//!
//! Everything of a queue happens on one lightweight thread.

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
