//! Statistics: plain counters for each channel, added up on request.

use super::device::Bdev;
use super::io::Io;
use crate::reactor::{clock, thread};
use drivebay_plugin_api::*;
use std::cell::Cell;

use std::sync::Arc;

/// The counters of one channel. Latencies are measured with the clock of the round. They are exact
/// for I/O that takes longer than a round, and 0 for I/O that completes within it.
#[derive(Default)]
pub(super) struct Counters([Row; ROWS]);

struct Row {
    ops: Cell<u64>,
    blocks: Cell<u64>,
    latency_ns: Cell<u64>,
    max_ns: Cell<u64>,
    min_ns: Cell<u64>,
    errors: Cell<u64>,
}

impl Default for Row {
    fn default() -> Self {
        let row = Self {
            ops: Cell::default(),
            blocks: Cell::default(),
            latency_ns: Cell::default(),
            max_ns: Cell::default(),
            min_ns: Cell::default(),
            errors: Cell::default(),
        };
        row.min_ns.set(u64::MAX);
        row
    }
}

const OTHER: usize = 0;
const READ: usize = BAY_OP_READ as usize;
const WRITE: usize = BAY_OP_WRITE as usize;
const UNMAP: usize = BAY_OP_UNMAP as usize;
/// The number of rows, indexed by op. Ops without a row share row 0, which belongs to no op. A
/// power of two.
const ROWS: usize = 8;

/// Whether the statistics have a row for the op.
#[inline]
pub(super) fn has_row(op: u16) -> bool {
    usize::from(op) < ROWS
}

/// What every channel on the path of an I/O counts for that I/O.
pub(super) struct Tally {
    row: usize,
    blocks: u64,
    now_ns: u64,
    status: i32,
}

impl Tally {
    #[inline]
    pub(super) fn of(io: Io, status: i32) -> Self {
        let request = io.request();
        let row = if has_row(request.op) { request.op.into() } else { OTHER };
        Self { row, blocks: request.nblocks, now_ns: clock::of_round(), status }
    }

    /// As `of`, for a successful I/O whose op has a row.
    #[inline]
    pub(super) fn of_usual(io: Io) -> Self {
        let request = io.request();
        let row = usize::from(request.op) % ROWS;
        Self { row, blocks: request.nblocks, now_ns: clock::of_round(), status: 0 }
    }
}

impl Counters {
    /// Counts an I/O that arrived on the channel at `since_ns`.
    #[inline]
    pub(super) fn count(&self, io: &Tally, since_ns: u64) {
        let Some(row) = self.0.get(io.row % ROWS) else { return };
        if io.status != 0 {
            return row.errors.set(row.errors.get() + 1);
        }
        let latency = io.now_ns.saturating_sub(since_ns);
        row.ops.set(row.ops.get() + 1);
        row.blocks.set(row.blocks.get() + io.blocks);
        row.latency_ns.set(row.latency_ns.get() + latency);
        if latency > row.max_ns.get() {
            row.max_ns.set(latency);
        }
        if latency < row.min_ns.get() {
            row.min_ns.set(latency);
        }
    }

    fn sum(&self) -> IoStat {
        let of = |index: usize| self.0.get(index).map(Row::stat).unwrap_or_default();
        IoStat {
            read: of(READ),
            write: of(WRITE),
            unmap: of(UNMAP),
            errors: self.0.iter().map(|row| row.errors.get()).sum(),
        }
    }

    fn reset(&self, what: Reset) {
        self.0.iter().for_each(|row| row.reset(what));
    }
}

impl Row {
    fn stat(&self) -> OpStat {
        OpStat {
            ops: self.ops.get(),
            blocks: self.blocks.get(),
            latency_ns: self.latency_ns.get(),
            max_ns: self.max_ns.get(),
            min_ns: self.min_ns.get(),
        }
    }

    fn reset(&self, what: Reset) {
        if matches!(what, Reset::All | Reset::MaxMin) {
            self.max_ns.set(0);
            self.min_ns.set(u64::MAX);
        }
        if matches!(what, Reset::All | Reset::Errors) {
            self.errors.set(0);
        }
        if what == Reset::All {
            [&self.ops, &self.blocks, &self.latency_ns]
                .into_iter()
                .for_each(|counter| counter.set(0));
        }
    }
}

/// The counters that a reset sets to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// All of them.
    All,
    /// The longest and shortest latencies.
    MaxMin,
    /// The number of errors.
    Errors,
}

/// The counters of one op.
#[derive(Clone, Copy, Debug)]
pub struct OpStat {
    /// The number of successful I/O.
    pub ops: u64,
    /// The number of blocks of these I/O.
    pub blocks: u64,
    /// The sum of their latencies.
    pub latency_ns: u64,
    /// The longest latency.
    pub max_ns: u64,
    /// The shortest latency; `u64::MAX` when no I/O was counted.
    pub min_ns: u64,
}

impl Default for OpStat {
    fn default() -> Self {
        Self { ops: 0, blocks: 0, latency_ns: 0, max_ns: 0, min_ns: u64::MAX }
    }
}

/// The counters of one bdev.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoStat {
    /// Reads.
    pub read: OpStat,
    /// Writes.
    pub write: OpStat,
    /// Unmaps.
    pub unmap: OpStat,
    /// The number of I/O that failed, of all ops.
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
    /// Adds the counters of `other` to these.
    pub fn add(&mut self, other: &Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
        self.unmap.add(&other.unmap);
        self.errors += other.errors;
    }
}

/// The counters of channels that are gone.
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
