//! Statistics: the counters of all threads, added up on request.

use crate::bdev::state::Bdev;
pub use crate::bdev::state::stats::{IoStat, OpStat, Reset};
use crate::reactor::thread;
use std::sync::Arc;

/// Adds up a bdev's counters on all threads. Then calls `done` with the sum and, for each channel,
/// the thread's id and its share.
pub fn collect(bdev: &Arc<Bdev>, done: impl FnOnce(IoStat, Vec<(u64, IoStat)>) + Send + 'static) {
    let visited = Arc::clone(bdev);
    let bdev = Arc::clone(bdev);
    thread::for_each(
        move || {
            thread::with_current(|thread| {
                thread.bdevs.of(&visited).map(|channel| (thread::current_id(), channel.stats.sum()))
            })
            .flatten()
        },
        move |rows| {
            let rows: Vec<_> = rows.into_iter().flatten().collect();
            let mut total = *bdev.retired.lock();
            rows.iter().for_each(|(_, row)| total.add(row));
            done(total, rows);
        },
    );
}

/// Sets a bdev's counters to zero on all threads, then calls `done`.
pub fn reset(bdev: &Arc<Bdev>, what: Reset, done: impl FnOnce() + Send + 'static) {
    bdev.retired.reset(what);
    if what == Reset::All {
        bdev.reset_module_stats();
    }
    let bdev = Arc::clone(bdev);
    thread::for_each(
        move || {
            thread::with_current(|thread| {
                if let Some(channel) = thread.bdevs.of(&bdev) {
                    channel.stats.reset(what);
                }
            });
        },
        move |_| done(),
    );
}
