//! The runtime for work outside the data path: tasks, timers, locks, metadata I/O, poll groups, workers, sockets.
//!
//! - [`task`] runs futures on lightweight threads: [`task::spawn`], [`task::sleep`], [`task::timeout`], [`task::join`].
//! - [`lock`] allows one operation on an object at a time and names it; [`notify`] wakes tasks that wait for a change.
//! - [`io`] reads and writes an open bdev with futures, for metadata such as a superblock.
//! - [`resident`] keeps a value on its thread; [`group`] spreads work over one thread per core.
//! - [`worker`] runs blocking work on threads of the host; `net` has sockets (feature `net`).
//!
//! All of it is for the control path: a task costs an allocation, and a wake-up takes a lock. For the data path use
//! [`Poll`](crate::poller::Poll), [`Message`](crate::thread::Message) and [`Channel::submit`](crate::bdev::Channel::submit).
//!
//! `docs/plugin-guide/runtime.md` has an example of each part.

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
