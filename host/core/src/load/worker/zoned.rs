//! Verification of a zoned bdev. Each task has its own zones, so that it alone moves their write pointers:
//!
//! ```text
//! report ─▶ reset ─▶ write ─▶ read ─▶ append ─▶ read ─▶ … ─▶ finish ─▶ the task's next zone
//! ```

use super::{Failure, Generations, Span, Task, Worker, as_arg, content, path, state, ticks};
use drivebay_plugin_api::*;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// Length of the record of a zone, in bytes.
const RECORD_LEN: u32 = 32;
const _: () = assert!(size_of::<bay_zone>() == RECORD_LEN as usize);

/// The zones of a worker.
pub(super) struct Zones {
    /// The worker's zones; the unit is a zone.
    span: Span,
    zone_size: u64,
    cursors: Box<[Cursor]>,
}

/// Where a task is.
struct Cursor {
    /// The number of its zone, counted from the worker's first.
    zone: Cell<u64>,
    capacity: Cell<u64>,
    /// The number of blocks that the task has written and read back.
    written: Cell<u64>,
    step: Cell<Step>,
    /// Memory for the report: a part of the task's.
    record: bay_iov,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Report,
    Reset,
    Write,
    Append,
    Read,
    Finish,
}

impl Cursor {
    /// Whether the task has written to its zone and not finished it.
    fn is_inside_zone(&self) -> bool {
        match self.step.get() {
            Step::Read => true,
            Step::Write | Step::Append => self.written.get() > 0,
            Step::Report | Step::Reset | Step::Finish => false,
        }
    }
}

impl Zones {
    pub(super) fn new(span: Span, zone_size: u64, tasks: &[Task]) -> Self {
        let cursor = |task: &Task| Cursor {
            zone: Cell::new(task.index.into()),
            capacity: Cell::new(0),
            written: Cell::new(0),
            step: Cell::new(Step::Report),
            record: bay_iov { len: RECORD_LEN, ..task.iov },
        };
        Self { span, zone_size, cursors: tasks.iter().map(cursor).collect() }
    }

    /// The first block of the task's zone.
    fn start(&self, cursor: &Cursor) -> u64 {
        (self.span.first + cursor.zone.get()) * self.zone_size
    }

    fn go_to_next(&self, cursor: &Cursor) {
        let tasks = self.cursors.len() as u64;
        let next = cursor.zone.get() + tasks;
        cursor.zone.set(if next < self.span.len { next } else { next % tasks });
        cursor.step.set(Step::Report);
    }
}

impl Worker {
    #[inline(never)]
    pub(super) fn submit_to_zone(&self, task: &Task, zones: &Zones) {
        let Some(cursor) = zones.cursors.get(task.index as usize) else { return };
        let (step, start) = (cursor.step.get(), zones.start(cursor));
        let place = start + cursor.written.get();
        self.with_memory(task, |memory| match step {
            Step::Write | Step::Append => {
                content::fill(memory, self.block_size, place, task.generation.get());
            }
            Step::Read => content::spoil(memory, self.block_size),
            Step::Report | Step::Reset | Step::Finish => {}
        });
        let (op, lba, arg) = match step {
            Step::Report => (BAY_OP_ZONE_REPORT, start, 1),
            Step::Reset => (BAY_OP_ZONE_MANAGE, start, BAY_ZONE_RESET),
            Step::Finish => (BAY_OP_ZONE_MANAGE, start, BAY_ZONE_FINISH),
            Step::Append => (BAY_OP_ZONE_APPEND, start, 0),
            Step::Write => (BAY_OP_WRITE, place, 0),
            Step::Read => (BAY_OP_READ, place, 0),
        };
        let (iov, nblocks) = match step {
            Step::Report => (&raw const cursor.record, 0),
            Step::Reset | Step::Finish => (ptr::null(), 0),
            Step::Append | Step::Write | Step::Read => (&raw const task.iov, self.nblocks),
        };
        task.began.set(ticks::now());
        // SAFETY: the call passes no waiter.
        let Some(io) = (unsafe { state::io_get(self.chan, ptr::null_mut()) }) else {
            return self.not_sent(task);
        };
        // SAFETY: the worker owns the request, which is new from the pool.
        let request = unsafe { &mut *io.abi() };
        request.op = op;
        request.flags = 0;
        (request.lba, request.nblocks) = (lba, nblocks);
        (request.iov, request.iovcnt) = (iov, u16::from(!iov.is_null()));
        request.arg = [arg, 0];
        io.set_callback(Some(zone_io_done), as_arg(task));
        path::submit(io);
    }

    /// Finishes the zones that the run is in the middle of, when all tasks are idle. The next run may need other zones, and a device
    /// limits the number of active ones. Returns whether there were any.
    #[cold]
    pub(super) fn leave_zones(&self) -> bool {
        let Some(super::Checked::Zones(zones)) = &self.checked else { return false };
        let mut some = false;
        for _ in 0..self.tasks.len() {
            let Some(task) = self.take_idle() else { break };
            match zones.cursors.get(task.index as usize).filter(|cursor| cursor.is_inside_zone()) {
                Some(cursor) => {
                    cursor.step.set(Step::Finish);
                    self.submit_to_zone(task, zones);
                    some = true;
                }
                None => self.put_idle(task),
            }
        }
        some
    }

    fn zone_completed(&self, task: &Task, zones: &Zones, status: i32, detail: u64) {
        let Some(cursor) = zones.cursors.get(task.index as usize) else { return };
        let place = zones.start(cursor) + cursor.written.get();
        self.tick.set(ticks::now());
        let read = cursor.step.get() == Step::Read;
        let failure = if status == 0 {
            self.end_step(task, zones, cursor, detail)
        } else {
            Some(Failure::Status { lba: place, read, status })
        };
        if let Some(failure) = failure {
            self.failed.set(self.failed.get() + 1);
            self.record_failure(failure);
        }
        self.put_idle(task);
        if self.budget.get() > 0
            && let Some(next) = self.take_idle()
        {
            self.submit(next);
        }
    }

    /// Checks what a step has done, and chooses the next one.
    fn end_step(
        &self,
        task: &Task,
        zones: &Zones,
        cursor: &Cursor,
        detail: u64,
    ) -> Option<Failure> {
        let place = zones.start(cursor) + cursor.written.get();
        let [reads, writes] = &self.done;
        match cursor.step.get() {
            Step::Report if detail != 1 => {
                return Some(Failure::Status { lba: place, read: true, status: -libc::EIO });
            }
            Step::Report => {
                cursor.capacity.set(self.with_memory(task, |memory| capacity(memory)));
                cursor.step.set(Step::Reset);
            }
            Step::Reset => {
                cursor.written.set(0);
                task.generation.set(Generations::after(task.generation.get()));
                self.choose(zones, cursor, Step::Write);
            }
            Step::Append if detail != place => {
                return Some(Failure::Misplaced { lba: detail, expected: place });
            }
            Step::Write | Step::Append => {
                self.latency.record(self.tick.get().saturating_sub(task.began.get()));
                writes.set(writes.get() + 1);
                let is_append = cursor.step.replace(Step::Read) == Step::Append;
                task.again.set(is_append);
            }
            Step::Read => {
                self.latency.record(self.tick.get().saturating_sub(task.began.get()));
                reads.set(reads.get() + 1);
                self.verified.set(self.verified.get() + 1);
                let generation = task.generation.get();
                let checked = self.with_memory(task, |memory| {
                    content::check(memory, self.block_size, place, generation)
                });
                if let Err(mismatch) = checked {
                    return Some(Failure::Mismatch(mismatch));
                }
                cursor.written.set(cursor.written.get() + self.nblocks);
                let next = if task.again.get() { Step::Write } else { Step::Append };
                self.choose(zones, cursor, next);
            }
            Step::Finish => zones.go_to_next(cursor),
        }
        None
    }

    /// Goes on with `next` while the zone has room for one more I/O, else to the next zone.
    fn choose(&self, zones: &Zones, cursor: &Cursor, next: Step) {
        let left = cursor.capacity.get().saturating_sub(cursor.written.get());
        if left >= self.nblocks {
            cursor.step.set(next);
        } else if left > 0 {
            cursor.step.set(Step::Finish);
        } else {
            zones.go_to_next(cursor);
        }
    }
}

/// The capacity in the record of a zone. All targets are little-endian.
fn capacity(record: &[u8]) -> u64 {
    let (words, _) = record.as_chunks::<8>();
    words.get(1).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The bus's callback; `arg` is the task.
unsafe extern "C" fn zone_io_done(arg: *mut c_void, io: *mut bay_io, status: i32) {
    // SAFETY: `submit_to_zone` passed the task, which lives as long as its worker.
    let task = unsafe { &*arg.cast::<Task>() };
    // SAFETY: the worker is not freed while its I/O is in flight (invariant).
    let worker = unsafe { &*task.worker.get() };
    // SAFETY: the I/O is alive until its callback returns.
    let detail = unsafe { (*io).detail };
    if let Some(super::Checked::Zones(zones)) = &worker.checked {
        worker.zone_completed(task, zones, status, detail);
    }
}
