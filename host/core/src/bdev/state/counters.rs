//! The counters of a channel: plain numbers that only its thread writes.

use super::stats::{IoStat, OpStat, Reset};
use crate::reactor::clock;
use drivebay_plugin_api::*;
use std::cell::Cell;

/// The counters of one channel. Latencies are measured with the clock of the round. They are exact
/// for I/O that takes longer than a round, and 0 for I/O that completes within it.
#[derive(Default)]
pub(in crate::bdev) struct Counters([Row; ROWS]);

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
pub(in crate::bdev) fn has_row(op: u16) -> bool {
    usize::from(op) < ROWS
}

/// What every channel on the path of an I/O counts for that I/O.
pub(in crate::bdev) struct Tally {
    row: usize,
    blocks: u64,
    now_ns: u64,
    status: i32,
}

impl Tally {
    #[inline]
    pub(in crate::bdev) fn of(request: &bay_io, status: i32) -> Self {
        let row = match request.op {
            BAY_OP_ZONE_APPEND => WRITE,
            op if has_row(op) => op.into(),
            _ => OTHER,
        };
        Self { row, blocks: request.nblocks, now_ns: clock::of_round(), status }
    }

    /// As `of`, for a successful I/O whose op has a row.
    #[inline]
    pub(in crate::bdev) fn of_usual(request: &bay_io) -> Self {
        let row = usize::from(request.op) % ROWS;
        Self { row, blocks: request.nblocks, now_ns: clock::of_round(), status: 0 }
    }
}

impl Counters {
    /// Counts an I/O that arrived on the channel at `since_ns`.
    #[inline]
    pub(in crate::bdev) fn count(&self, io: &Tally, since_ns: u64) {
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

    pub(in crate::bdev) fn sum(&self) -> IoStat {
        let of = |index: usize| self.0.get(index).map(Row::stat).unwrap_or_default();
        IoStat {
            read: of(READ),
            write: of(WRITE),
            unmap: of(UNMAP),
            errors: self.0.iter().map(|row| row.errors.get()).sum(),
        }
    }

    pub(in crate::bdev) fn reset(&self, what: Reset) {
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
