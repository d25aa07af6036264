//! What `thread_get_stats` and `thread_get_pollers` report.

use super::with_current;
use crate::env::CpuSet;
use crate::reactor::poller;
use std::sync::atomic::Ordering;

/// What `thread_get_stats` reports about one thread. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Info {
    /// The thread's id.
    pub id: u64,
    /// The thread's name.
    pub name: String,
    /// The core that it runs on.
    pub core: usize,
    /// The cores that it may run on.
    pub cpumask: CpuSet,
    /// The time in rounds that found work.
    pub busy_ns: u64,
    /// The time in all other rounds.
    pub idle_ns: u64,
    /// Its pollers.
    pub pollers: Vec<poller::Info>,
    /// Its io_channels: the name of the bdev and the number of references.
    pub channels: Vec<(String, u64)>,
}

/// Returns information about the current thread; `None` outside of one.
#[must_use]
pub fn info() -> Option<Info> {
    with_current(|thread| Info {
        id: thread.shared.id,
        name: thread.shared.name.clone(),
        core: thread.shared.core.load(Ordering::Relaxed),
        cpumask: thread.cpumask.borrow().clone(),
        busy_ns: thread.busy_ns.get(),
        idle_ns: thread.idle_ns.get(),
        pollers: thread.pollers.borrow().iter().map(|poller| poller.info()).collect(),
        channels: thread.bdevs.channel_names(),
    })
}
