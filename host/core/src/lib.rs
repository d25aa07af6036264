//! The host's core: environment, reactors with their lightweight threads, and the bdev bus.
//!
//! ```text
//! env/       memory that devices can reach, buffer pools, core masks, the runtime folder
//! reactor/   one OS thread per core: threads, pollers, messages, sleep and wake
//! bdev/      the bus: one file per stage of an I/O, the life of a bdev, statistics
//! load/      the load generator of `drivebay perf`
//! services/  the tables of the plugin ABI over all of this
//! ```

pub mod bdev;
pub mod env;
mod error;
pub mod load;
pub mod reactor;
pub mod services;
pub mod worker;

pub use error::{Error, Result};
