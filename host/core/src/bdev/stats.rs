//! Statistics: plain counters per channel, added up when somebody asks.

use super::device::Bdev;
use super::io::Io;
use crate::reactor::{clock, thread};
use drivebay_plugin_api::*;
use std::cell::Cell;

use std::sync::Arc;

/// Counters of one channel. Latency is taken from the clock of the round, so it is exact for I/O
/// that takes longer than a round and 0 for I/O that ends in it.
#[derive(Default)]
pub(super) struct Counters([Cell<Row>; ROWS]);

#[derive(Clone, Copy)]
struct Row {
    ops: u64,
    blocks: u64,
    latency_ns: u64,
    max_ns: u64,
    min_ns: u64,
    errors: u64,
}

impl Default for Row {
    fn default() -> Self {
        Self { ops: 0, blocks: 0, latency_ns: 0, max_ns: 0, min_ns: u64::MAX, errors: 0 }
    }
}

const READ: usize = 0;
const WRITE: usize = 1;
const UNMAP: usize = 2;
const OTHER: usize = 3;
const ROWS: usize = 4;

impl Counters {
    pub(super) fn count(&self, io: Io, status: i32) {
        let request = io.request();
        let index = match request.op {
            BAY_OP_READ => READ,
            BAY_OP_WRITE => WRITE,
            BAY_OP_UNMAP => UNMAP,
            _ => OTHER,
        };
        let Some(cell) = self.0.get(index) else { return };
        let mut row = cell.get();
        if status == 0 {
            let latency = clock::now().saturating_sub(io.submitted_ns.get());
            row.ops += 1;
            row.blocks += request.nblocks;
            row.latency_ns += latency;
            row.max_ns = row.max_ns.max(latency);
            row.min_ns = row.min_ns.min(latency);
        } else {
            row.errors += 1;
        }
        cell.set(row);
    }

    fn sum(&self) -> IoStat {
        let row = |index: usize| self.0.get(index).map(Cell::get).unwrap_or_default();
        let of = |row: Row| OpStat {
            ops: row.ops,
            blocks: row.blocks,
            latency_ns: row.latency_ns,
            max_ns: row.max_ns,
            min_ns: row.min_ns,
        };
        IoStat {
            read: of(row(READ)),
            write: of(row(WRITE)),
            unmap: of(row(UNMAP)),
            errors: self.0.iter().map(|cell| cell.get().errors).sum(),
        }
    }

    fn reset(&self, what: Reset) {
        for cell in &self.0 {
            let row = cell.get();
            cell.set(match what {
                Reset::All => Row::default(),
                Reset::MaxMin => Row { max_ns: 0, min_ns: u64::MAX, ..row },
                Reset::Errors => Row { errors: 0, ..row },
            });
        }
    }
}

/// Which counters are set to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// All of them.
    All,
    /// Longest and shortest latencies.
    MaxMin,
    /// Errors.
    Errors,
}

/// Of one op.
#[derive(Clone, Copy, Debug)]
pub struct OpStat {
    /// Completed with success.
    pub ops: u64,
    /// Blocks of these.
    pub blocks: u64,
    /// Sum of latencies.
    pub latency_ns: u64,
    /// Longest.
    pub max_ns: u64,
    /// Shortest; `u64::MAX` when there is none.
    pub min_ns: u64,
}

impl Default for OpStat {
    fn default() -> Self {
        Self { ops: 0, blocks: 0, latency_ns: 0, max_ns: 0, min_ns: u64::MAX }
    }
}

/// Of one bdev.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoStat {
    /// Reads.
    pub read: OpStat,
    /// Writes.
    pub write: OpStat,
    /// Unmaps.
    pub unmap: OpStat,
    /// I/O that failed.
    pub errors: u64,
}

impl OpStat {
    fn add(&mut self, other: &Self) {
        self.min_ns = self.min_ns.min(other.min_ns);
        self.ops += other.ops;
        self.blocks += other.blocks;
        self.latency_ns += other.latency_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    fn reset(&mut self, what: Reset) {
        match what {
            Reset::All => *self = Self::default(),
            Reset::MaxMin => *self = Self { max_ns: 0, min_ns: u64::MAX, ..*self },
            Reset::Errors => {}
        }
    }
}

impl IoStat {
    /// Adds another's counters.
    pub fn add(&mut self, other: &Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
        self.unmap.add(&other.unmap);
        self.errors += other.errors;
    }
}

/// What channels that are gone had counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    sum: std::sync::Mutex<IoStat>,
}

impl Totals {
    pub(super) fn add(&self, counters: &Counters) {
        self.lock().add(&counters.sum());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, IoStat> {
        self.sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn reset(&self, what: Reset) {
        let mut sum = self.lock();
        let IoStat { read, write, unmap, errors } = &mut *sum;
        [read, write, unmap].into_iter().for_each(|op| op.reset(what));
        if what != Reset::MaxMin {
            *errors = 0;
        }
    }
}

/// Adds up a bdev's counters over all threads, then calls `done` with them and, per channel, with
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

/// Sets a bdev's counters to zero on all threads.
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
