//! What a plugin runs beside the data path: tasks, timers, locks, metadata I/O, poll groups, workers, sockets.
//!
//! - [`task`] runs futures on lightweight threads: [`task::spawn`], [`task::sleep`], [`task::timeout`], [`task::join`].
//! - [`lock`] keeps operations on one object apart and names the one under way; [`notify`] wakes what waits for a change.
//! - [`io`] reads and writes an open bdev in futures: the metadata of a volume, a superblock.
//! - [`resident`] holds a value on its thread; [`group`] spreads work over one thread per core.
//! - [`worker`] runs what blocks on threads of the host; `net` is sockets (feature `net`).
//!
//! All of it is for the control path. A task costs an allocation and a wake-up a lock; the data path has
//! [`Poll`](crate::poller::Poll), [`Message`](crate::thread::Message) and [`Channel::submit`](crate::bdev::Channel::submit).
//!
//! `docs/plugin-guide/runtime.md` shows each part at work.

mod executor;
pub mod group;
pub mod io;
pub mod lock;
#[cfg(feature = "net")]
pub mod net;
pub mod notify;
pub mod resident;
pub mod task;
#[cfg(test)]
mod tests;
mod timer;
pub mod worker;

pub use group::Group;
pub use resident::{OnApp, Resident};
