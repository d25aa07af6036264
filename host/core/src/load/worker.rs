//! One worker: it keeps `depth` I/O in flight on one channel.
//!
//! A completion submits the next I/O from inside its callback, as a transport does, but only up to
//! a number for each round. Beyond that, tasks wait in `idle` for the poller. Without this limit a
//! module that completes inside `submit` would never let the reactor continue.
#![expect(unsafe_code, reason = "I/O, their callbacks and their memory are raw pointers")]

mod zoned;

use super::content::{self, Mismatch};
use super::histogram::Histogram;
use super::places::{Generations, Places, Span};
use super::plan::{Failure, Limit, Pattern, Plan, Report};
use super::ticks;
use crate::bdev::path::{self, channel_life};
use crate::bdev::{Desc, state};
use crate::env::memory;
use crate::reactor::poller::State;
use crate::reactor::{clock, thread};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;
use zoned::Zones;

/// What a worker sends back when it ends.
pub(super) type Outcome = Report;

/// A round may submit at least this many I/Os, even at a smaller depth.
const BURST: u32 = 64;
const NOBODY: u32 = u32::MAX;

/// What a worker needs to start.
pub(super) struct Order {
    pub(super) desc: Arc<Desc>,
    pub(super) core: usize,
    span: Span,
    plan: Plan,
    stop: Arc<AtomicBool>,
    home: Sender<Outcome>,
}

impl Order {
    pub(super) fn new(
        plan: &Plan,
        desc: &Arc<Desc>,
        core: usize,
        span: Span,
        stop: &Arc<AtomicBool>,
        home: &Sender<Outcome>,
    ) -> Result<Self> {
        let bytes = plan.io_size as usize;
        if bytes.checked_mul(plan.depth as usize).is_none_or(|all| all > 1 << 40) {
            return Err(Error::new(libc::EINVAL, "depth times io size must be at most 1 TiB"));
        }
        Ok(Self {
            desc: Arc::clone(desc),
            core,
            span,
            plan: plan.clone(),
            stop: Arc::clone(stop),
            home: home.clone(),
        })
    }
}

/// Starts a worker. The current lightweight thread belongs to it alone.
pub(super) fn begin(order: Order) {
    let (bdev, core, home) = (order.desc.bdev.name.clone(), order.core, order.home.clone());
    if let Err(error) = Worker::start(order) {
        tracing::error!(bdev, core, "the load generator could not start: {error}");
        let _ = home.send(Report {
            bdev,
            core,
            reads: 0,
            writes: 0,
            bytes: 0,
            verified: 0,
            failed: 0,
            elapsed: Duration::ZERO,
            latency: Histogram::new(),
            failure: Some(Failure::NotBegun(error.errno())),
        });
        thread::exit_current();
    }
}

/// One I/O that is in flight or idle. It fills one cache line.
#[repr(C, align(64))]
struct Task {
    worker: Cell<*const Worker>,
    iov: bay_iov,
    began: Cell<u64>,
    unit: Cell<u64>,
    /// The next task in the list of idle tasks.
    next: Cell<u32>,
    index: u32,
    /// For a read, the generation that the unit has. For a write, the generation that the unit
    /// gets.
    generation: Cell<u32>,
    read: Cell<bool>,
    /// Whether its next I/O reads back the unit that it has just written.
    again: Cell<bool>,
}

/// # Invariants
/// A worker is boxed and does not move from `start` to `finish`, and `finish` runs with no I/O in
/// flight. So tasks, their lists and their memory stay in place as long as the bus may use them.
/// Only one lightweight thread uses the worker.
struct Worker {
    // Fields that every I/O needs.
    chan: u64,
    /// The first and the last task in the idle list; `idle_last` only counts while there is a first
    /// one.
    idle: Cell<u32>,
    idle_last: Cell<u32>,
    budget: Cell<u32>,
    tick: Cell<u64>,
    /// The number of reads and of writes.
    done: [Cell<u64>; 2],
    nblocks: u64,
    places: Places,
    tasks: Box<[Task]>,
    latency: Histogram,
    null_loop: bool,
    /// The memory that stands for the disk in the copy loop.
    copied: Option<Memory>,
    checked: Option<Checked>,
    // Fields that every round needs.
    left: Cell<u64>,
    granted: Cell<u32>,
    warm_until_ns: Cell<u64>,
    began_ns: Cell<u64>,
    end_ns: Cell<u64>,
    poller: Cell<u64>,
    // Fields for failures and for the end.
    read_back: bool,
    verified: Cell<u64>,
    failed: Cell<u64>,
    failure: Cell<Option<Failure>>,
    /// The memory of all tasks; freed with the worker.
    _memory: Memory,
    /// The request that the null loop fills instead of an I/O of the bus.
    scratch: UnsafeCell<bay_io>,
    block_size: usize,
    order: Order,
}

/// What a run that verifies knows of the bdev.
enum Checked {
    Blocks(Generations),
    Zones(Zones),
}

/// An allocation of DMA memory that is freed on drop.
struct Memory(NonNull<u8>);

impl Drop for Memory {
    fn drop(&mut self) {
        memory::free(self.0.as_ptr());
    }
}

// ---- the path of one I/O -------------------------------------------------------------------------

impl Worker {
    /// Submits idle tasks, as many as this round may.
    fn submit_idle(&self) -> bool {
        let mut some = false;
        while self.budget.get() > 0
            && let Some(task) = self.take_idle()
        {
            some = true;
            self.submit(task);
        }
        some
    }

    fn submit(&self, task: &Task) {
        self.budget.set(self.budget.get() - 1);
        if let Some(checked) = &self.checked {
            return match checked {
                Checked::Blocks(generations) => self.submit_verified(task, generations),
                Checked::Zones(zones) => self.submit_to_zone(task, zones),
            };
        }
        let (unit, read) = self.places.next();
        task.unit.set(unit);
        task.read.set(read);
        task.began.set(self.tick.get());
        self.send(task);
    }

    #[inline]
    fn send(&self, task: &Task) {
        if self.null_loop {
            return self.send_nowhere(task);
        }
        // SAFETY: the call passes no waiter.
        let Some(io) = (unsafe { state::io_get(self.chan, ptr::null_mut()) }) else {
            return self.not_sent(task);
        };
        self.fill(task, io.abi());
        io.set_callback(Some(io_done), as_arg(task));
        path::submit(io);
    }

    #[cold]
    #[inline(never)]
    fn not_sent(&self, task: &Task) {
        self.failed(task, -libc::ENOMEM);
    }

    #[inline(never)]
    fn send_nowhere(&self, task: &Task) {
        self.fill(task, self.scratch.get());
        if let Some(memory) = &self.copied {
            self.copy(task, memory);
        }
        // SAFETY: these are the arguments that the bus would pass, and this is the worker's thread.
        unsafe { io_done(as_arg(task), self.scratch.get(), 0) };
    }

    #[inline]
    fn fill(&self, task: &Task, request: *mut bay_io) {
        // SAFETY: the worker owns the request: it is new from the pool, or it is the worker's
        // scratch.
        let request = unsafe { &mut *request };
        request.op = if task.read.get() { BAY_OP_READ } else { BAY_OP_WRITE };
        request.flags = 0;
        request.lba = task.unit.get() * self.nblocks;
        request.nblocks = self.nblocks;
        request.iov = &raw const task.iov;
        request.iovcnt = 1;
    }

    /// Copies as a RAM disk would.
    fn copy(&self, task: &Task, disk: &Memory) {
        let (buffer, len) = (task.iov.addr.cast::<u8>(), task.iov.len as usize);
        // The memory has room for every unit of the span.
        let offset = usize::try_from(task.unit.get()).unwrap_or(0) * len;
        // SAFETY: the memory holds every unit of the span.
        let place = unsafe { disk.0.as_ptr().add(offset) };
        let (from, to) = if task.read.get() { (place, buffer) } else { (buffer, place) };
        // SAFETY: both are valid for `len` bytes, belong to different allocations, and only this
        // thread uses them.
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
    }

    #[expect(clippy::inline_always, reason = "the run measures the bus, not this call")]
    #[inline(always)]
    fn completed(&self, task: &Task, status: i32) {
        let tick = ticks::now();
        self.tick.set(tick);
        if status != 0 {
            return self.failed(task, status);
        }
        self.latency.record(tick.saturating_sub(task.began.get()));
        let [reads, writes] = &self.done;
        let done = if task.read.get() { reads } else { writes };
        done.set(done.get() + 1);
        if let Some(Checked::Blocks(generations)) = &self.checked {
            self.verify(task, generations);
        }
        // The task that was idle longest goes next, so that all buffers are used even when the
        // module completes inside `submit`.
        self.put_idle(task);
        if self.budget.get() > 0
            && !self.null_loop
            && let Some(next) = self.take_idle()
        {
            self.submit(next);
        }
    }

    fn take_idle(&self) -> Option<&Task> {
        let task = self.tasks.get(self.idle.get() as usize)?;
        self.idle.set(task.next.get());
        Some(task)
    }

    /// Whether no I/O is in flight. It walks the whole list, so it is only for the end of a run.
    fn all_are_idle(&self) -> bool {
        let at = |index: u32| self.tasks.get(index as usize);
        let idle = std::iter::successors(at(self.idle.get()), |task| at(task.next.get()));
        idle.count() == self.tasks.len()
    }

    fn put_idle(&self, task: &Task) {
        task.next.set(NOBODY);
        let last = self.idle_last.replace(task.index);
        match self.tasks.get(last as usize) {
            Some(last) if self.idle.get() != NOBODY => last.next.set(task.index),
            _ => self.idle.set(task.index),
        }
    }
}

fn as_arg(task: &Task) -> *mut c_void {
    ptr::from_ref(task).cast_mut().cast()
}

/// The bus's callback; `arg` is the task.
unsafe extern "C" fn io_done(arg: *mut c_void, _io: *mut bay_io, status: i32) {
    // SAFETY: `send` passed the task, which lives as long as its worker.
    let task = unsafe { &*arg.cast::<Task>() };
    // SAFETY: the worker is not freed while its I/O is in flight (invariant).
    let worker = unsafe { &*task.worker.get() };
    worker.completed(task, status);
}

// ---- verification ----------------------------------------------------------------------------------

impl Worker {
    /// Chooses the next I/O and prepares its memory. A separate function, as `verify` is, to keep
    /// it out of the code path of runs that do not verify.
    #[inline(never)]
    fn submit_verified(&self, task: &Task, generations: &Generations) {
        if task.again.take() {
            task.read.set(true);
        } else {
            let (unit, read) = self.places.next();
            let (unit, generation) = generations.reserve(unit);
            task.unit.set(unit);
            task.read.set(read);
            task.generation.set(if read { generation } else { Generations::after(generation) });
        }
        let (lba, generation) = (task.unit.get() * self.nblocks, task.generation.get());
        self.with_memory(task, |memory| {
            if task.read.get() {
                content::spoil(memory, self.block_size);
            } else {
                content::fill(memory, self.block_size, lba, generation);
            }
        });
        task.began.set(ticks::now());
        self.send(task);
    }

    #[inline(never)]
    fn verify(&self, task: &Task, generations: &Generations) {
        let generation = task.generation.get();
        if task.read.get() {
            let lba = task.unit.get() * self.nblocks;
            // A block that the run has not written may contain anything.
            if generation != 0 {
                let checked = self.with_memory(task, |memory| {
                    content::check(memory, self.block_size, lba, generation)
                });
                self.verified.set(self.verified.get() + 1);
                if let Err(mismatch) = checked {
                    self.mismatched(mismatch);
                }
            }
        } else if self.read_back {
            return task.again.set(true); // the task keeps its unit
        }
        generations.release(task.unit.get(), generation);
    }

    fn with_memory<T>(&self, task: &Task, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let (addr, len) = (task.iov.addr.cast::<u8>(), task.iov.len as usize);
        // SAFETY: each task has its own `len` bytes of the worker's memory. While the task is not
        // in flight, nobody else uses them.
        f(unsafe { std::slice::from_raw_parts_mut(addr, len) })
    }

    #[cold]
    fn mismatched(&self, mismatch: Mismatch) {
        self.record_failure(Failure::Mismatch(mismatch));
    }
}

// ---- a round, failures and the end ---------------------------------------------------------------

impl Worker {
    /// Runs one round. Returns whether there was work; `None`: the run is complete.
    fn round(&self) -> Option<bool> {
        let used = self.granted.get() - self.budget.get();
        let now = clock::now();
        if now >= self.warm_until_ns.get() {
            self.count_from_here();
        }
        if now >= self.end_ns.get() || self.order.stop.load(Ordering::Relaxed) {
            self.left.set(0);
        }
        self.left.set(self.left.get().saturating_sub(used.into()));
        if self.left.get() == 0 && self.all_are_idle() {
            return self.leave_zones().then_some(true);
        }
        let most = (self.tasks.len().try_into().unwrap_or(BURST)).max(BURST);
        let grant = u32::try_from(self.left.get()).map_or(most, |left| left.min(most));
        self.granted.set(grant);
        self.budget.set(grant);
        self.tick.set(ticks::now());
        Some(self.submit_idle() || used > 0)
    }

    /// Discards everything that was counted so far, because the warm-up ends here.
    #[cold]
    fn count_from_here(&self) {
        self.latency.clear();
        self.done.iter().for_each(|done| done.set(0));
        self.warm_until_ns.set(u64::MAX);
        self.began_ns.set(clock::precise_now());
        if let Limit::Time(time) = self.order.plan.limit {
            self.end_ns.set(self.began_ns.get().saturating_add(as_ns(time)));
        }
    }

    #[cold]
    #[inline(never)]
    fn failed(&self, task: &Task, status: i32) {
        self.failed.set(self.failed.get() + 1);
        let lba = task.unit.get() * self.nblocks;
        self.record_failure(Failure::Status { lba, read: task.read.get(), status });
        self.put_idle(task);
    }

    /// Keeps the first failure. The worker submits nothing more.
    fn record_failure(&self, failure: Failure) {
        self.failure.set(self.failure.get().or(Some(failure)));
        self.left.set(0);
        self.granted.set(0);
        self.budget.set(0);
    }

    fn start(order: Order) -> Result<()> {
        let plan = &order.plan;
        let (depth, len) = (plan.depth as usize, plan.io_size as usize);
        // Aligned as the bdev requires, so that the bus need not copy.
        let stride = len.next_multiple_of(order.desc.bdev.record.align.max(64) as usize);
        let (base, region) = memory::alloc(stride * depth, 4096)?;
        let memory = Memory(base);
        let tasks = (0..plan.depth).map(|index| Task {
            worker: Cell::new(ptr::null()),
            iov: bay_iov {
                addr: base.as_ptr().wrapping_add(stride * index as usize).cast(),
                len: plan.io_size,
                region,
            },
            began: Cell::new(0),
            unit: Cell::new(0),
            next: Cell::new(if index + 1 == plan.depth { NOBODY } else { index + 1 }),
            index,
            generation: Cell::new(0),
            read: Cell::new(false),
            again: Cell::new(false),
        });
        let tasks: Box<[Task]> = tasks.collect();
        // Writes the memory once, so that no I/O has to wait for new pages.
        // SAFETY: the allocation is this long, and nobody else uses it.
        unsafe { ptr::write_bytes(base.as_ptr(), 0x5a, stride * depth) };
        let block_size = order.desc.bdev.record.block_size;
        let seed = (order.core as u64 + 1) ^ (order.desc.id << 20);
        let left = match plan.limit {
            Limit::Time(_) => u64::MAX,
            Limit::Ios(ios) => ios,
        };
        let now = clock::precise_now();
        // The clock of the first round may be a little behind. Without a warm-up that round must
        // count, too.
        let warm_until_ns =
            if plan.warm_up.is_zero() { 0 } else { now.saturating_add(as_ns(plan.warm_up)) };
        let zone_size = order.desc.bdev.record.zone_size;
        let checked = plan.verifies().then(|| match zone_size {
            0 => Checked::Blocks(Generations::new(order.span)),
            _ => Checked::Zones(Zones::new(order.span, zone_size, &tasks)),
        });
        let copied = plan.copy_loop.then(|| copy_target(order.span, len)).transpose()?;
        let chan = channel_life::get(&order.desc)?;
        let worker = Box::new(Self {
            chan,
            idle: Cell::new(0),
            idle_last: Cell::new(plan.depth - 1),
            budget: Cell::new(0),
            tick: Cell::new(0),
            done: [Cell::new(0), Cell::new(0)],
            nblocks: u64::from(plan.io_size / block_size),
            places: Places::new(plan.pattern, order.span, seed),
            tasks,
            latency: Histogram::new(),
            null_loop: plan.null_loop || plan.copy_loop,
            copied,
            checked,
            left: Cell::new(left),
            granted: Cell::new(0),
            warm_until_ns: Cell::new(warm_until_ns),
            began_ns: Cell::new(now),
            end_ns: Cell::new(u64::MAX),
            poller: Cell::new(0),
            read_back: plan.pattern == Pattern::Verify,
            verified: Cell::new(0),
            failed: Cell::new(0),
            failure: Cell::new(None),
            _memory: memory,
            scratch: UnsafeCell::new(bay_io::EMPTY),
            block_size: block_size as usize,
            order,
        });
        Self::register(worker)
    }

    fn register(worker: Box<Self>) -> Result<()> {
        let chan = worker.chan;
        let ctx = Box::into_raw(worker);
        // SAFETY: it was just boxed and is not shared yet.
        let worker = unsafe { &*ctx };
        worker.tasks.iter().for_each(|task| task.worker.set(ctx));
        let ops = bay_poller_ops {
            size: size_of_table::<bay_poller_ops>(),
            flags: 0,
            run: Some(poll),
            prepare_sleep: Some(prepare_sleep),
            woke: None,
            next_ns: Some(next_ns),
        };
        let added = thread::with_current(|thread| {
            // SAFETY: the functions fit the context, which lives until `finish` has removed the
            // poller.
            unsafe { thread.add_poller("perf".to_owned(), 0, ops, ctx.cast(), 0) }
        });
        match added {
            Some(Ok(id)) => {
                worker.poller.set(id);
                Ok(())
            }
            refused => {
                // SAFETY: nobody else got the pointer.
                drop(unsafe { Box::from_raw(ctx) });
                let _ = state::put(chan);
                let outside = Error::new(libc::EPERM, "not on a lightweight thread");
                Err(refused.and_then(Result::err).unwrap_or(outside))
            }
        }
    }

    fn finish(self: Box<Self>) {
        let elapsed = Duration::from_nanos(clock::precise_now() - self.began_ns.get());
        let poller = self.poller.get();
        thread::with_current(|thread| {
            let _ = thread.set_poller_state(poller, State::Gone);
        });
        if let Err(error) = state::put(self.chan) {
            tracing::error!("the load generator could not release its channel: {error}");
        }
        let [reads, writes] = self.done.each_ref().map(Cell::get);
        let _ = self.order.home.send(Report {
            bdev: self.order.desc.bdev.name.clone(),
            core: self.order.core,
            reads,
            writes,
            bytes: (reads + writes) * u64::from(self.order.plan.io_size),
            verified: self.verified.get(),
            failed: self.failed.get(),
            elapsed,
            latency: self.latency.clone(),
            failure: self.failure.get(),
        });
        thread::exit_current();
    }
}

unsafe extern "C" fn poll(ctx: *mut c_void) -> i32 {
    // SAFETY: the poller's context is the worker, until `finish`.
    let worker = unsafe { &*ctx.cast::<Worker>() };
    match worker.round() {
        Some(busy) => i32::from(busy),
        None => {
            // SAFETY: `register` boxed it, no I/O is in flight, and `finish` removes the poller.
            unsafe { Box::from_raw(ctx.cast::<Worker>()) }.finish();
            1
        }
    }
}

/// The reactor may sleep while every task is in flight.
unsafe extern "C" fn prepare_sleep(ctx: *mut c_void) -> i32 {
    // SAFETY: as in `poll`.
    let worker = unsafe { &*ctx.cast::<Worker>() };
    i32::from(worker.idle.get() != NOBODY)
}

unsafe extern "C" fn next_ns(ctx: *mut c_void) -> u64 {
    // SAFETY: as in `poll`.
    unsafe { &*ctx.cast::<Worker>() }.end_ns.get()
}

/// Memory for every unit of the span. It is written once, so that its pages exist.
fn copy_target(span: Span, len: usize) -> Result<Memory> {
    let units = usize::try_from(span.first + span.len).unwrap_or(usize::MAX);
    let bytes = units.saturating_mul(len);
    let memory = Memory(memory::alloc(bytes, 4096)?.0);
    // SAFETY: the allocation is this long, and nobody else uses it.
    unsafe { ptr::write_bytes(memory.0.as_ptr(), 0xa5, bytes) };
    Ok(memory)
}

fn as_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
