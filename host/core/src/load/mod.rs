//! The load generator of `drivebay perf`: keeps a number of I/O in flight and measures them.
//!
//! ```text
//! run ─ one worker per bdev and core, each a lightweight thread with a channel of its own
//!         worker   submits, is called back, submits again; allocates nothing per I/O
//!         places   what the next I/O is and where it goes
//!         content  what is written and expected when the run verifies
//!         histogram, ticks   how long each I/O took
//! ```

mod content;
mod histogram;
mod places;
mod ticks;
mod worker;

pub use content::Mismatch;
pub use histogram::Histogram;

use crate::bdev::desc::{self, Desc};
use crate::env::CpuSet;
use crate::reactor::{self, thread};
use crate::{Error, Result};
use places::Span;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use worker::{Order, Outcome};

/// Most I/O in flight per worker.
pub const MAX_DEPTH: u32 = 32_768;
/// Largest I/O in bytes.
pub const MAX_IO_SIZE: u32 = 64 << 20;
/// Most units of one worker's span when the run verifies; the rest of the bdev is left alone.
const MAX_VERIFIED: u64 = 16 << 20;
/// How long I/O in flight may take to end after the run.
const DRAIN: Duration = Duration::from_secs(30);

/// What is done and in which order. Mixes carry their percentage of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Reads in order.
    Read,
    /// Writes in order.
    Write,
    /// Reads and writes in order.
    ReadWrite(u8),
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Reads and writes anywhere.
    RandReadWrite(u8),
    /// Writes in order, each read back and compared.
    Verify,
}

impl Pattern {
    /// Whether it writes.
    #[must_use]
    pub fn writes(self) -> bool {
        match self {
            Self::Read | Self::RandRead => false,
            Self::Write | Self::RandWrite | Self::Verify => true,
            Self::ReadWrite(percent) | Self::RandReadWrite(percent) => percent < 100,
        }
    }
}

/// When a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After this many I/O of each worker.
    Ios(u64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the bdevs.
    pub bdevs: Vec<String>,
    /// Cores with a worker for each bdev; each must have a reactor.
    pub cores: CpuSet,
    /// What is done.
    pub pattern: Pattern,
    /// I/O in flight per worker, 1 to [`MAX_DEPTH`].
    pub depth: u32,
    /// Bytes per I/O: a multiple of the block size, up to [`MAX_IO_SIZE`].
    pub io_size: u32,
    /// The end.
    pub limit: Limit,
    /// I/O of this time at the beginning is not counted.
    pub warm_up: Duration,
    /// Reads are compared with what the run wrote before. Each worker keeps to a part of the bdev.
    pub verify: bool,
    /// The bus is left out: each I/O is called complete at once, which leaves the generator's own cost.
    pub null_loop: bool,
    /// As `null_loop`, with a copy between the buffer and memory of the bdev's size in place of the
    /// bus: what a RAM disk cannot beat.
    pub copy_loop: bool,
}

/// The first thing that went wrong for a worker; it submitted nothing more after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An I/O ended with this status.
    Status {
        /// First block of the I/O.
        lba: u64,
        /// Whether it was a read.
        read: bool,
        /// Negative errno, or a status of the bus.
        status: i32,
    },
    /// A read gave something else than was written.
    Mismatch(Mismatch),
    /// The worker could not begin, by this positive errno.
    NotBegun(i32),
}

/// What one worker did.
#[derive(Debug)]
pub struct Report {
    /// The bdev.
    pub bdev: String,
    /// The core.
    pub core: usize,
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Reads whose content was compared.
    pub verified: u64,
    /// I/O that failed.
    pub failed: u64,
    /// From the first submission (or the end of the warm-up) to the last completion.
    pub elapsed: Duration,
    /// Latencies, in ticks.
    pub latency: Histogram,
    /// What went wrong first.
    pub failure: Option<Failure>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Results {
    /// One per bdev and core.
    pub reports: Vec<Report>,
    /// Length of a tick of [`Report::latency`] in nanoseconds.
    pub ns_per_tick: f64,
}

/// Runs the plan and waits for its end; setting `stop` ends it early. Called from outside of the
/// reactors, which must run.
///
/// # Errors
/// `EINVAL` names the field of the plan, `ENODEV` and `EPERM` come from opening a bdev, `ETIMEDOUT`
/// when I/O does not end.
pub fn run(plan: &Plan, stop: &Arc<AtomicBool>) -> Result<Results> {
    check(plan)?;
    let mut opened = Opened::default();
    let (sender, receiver) = mpsc::channel();
    let mut orders = Vec::new();
    for name in &plan.bdevs {
        let desc = opened.open(name, plan.pattern.writes())?;
        for (index, core) in plan.cores.iter().enumerate() {
            let span = span_of(plan, &desc, index as u64)?;
            orders.push(Order::new(plan, &desc, core, span, stop, &sender)?);
        }
    }
    drop(sender);
    let (workers, calibration) = (orders.len(), ticks::Calibration::begin());
    for order in orders {
        let name = format!("perf_{}_{}", order.core, order.desc.bdev.name);
        let worker = thread::create(&name, &CpuSet::one(order.core))?;
        thread::send_boxed(worker, move || worker::begin(order));
    }
    let reports = gather(plan, workers, &receiver)?;
    Ok(Results { reports, ns_per_tick: calibration.ns_per_tick() })
}

fn check(plan: &Plan) -> Result<()> {
    let bad = |what: String| Err(Error::new(libc::EINVAL, what));
    if plan.bdevs.is_empty() {
        return bad("bdevs: at least one is required".into());
    }
    if !(1..=MAX_DEPTH).contains(&plan.depth) {
        return bad(format!("depth {} must be 1 to {MAX_DEPTH}", plan.depth));
    }
    if !(1..=MAX_IO_SIZE).contains(&plan.io_size) {
        return bad(format!("io size {} must be 1 to {MAX_IO_SIZE} bytes", plan.io_size));
    }
    if let Pattern::ReadWrite(percent) | Pattern::RandReadWrite(percent) = plan.pattern
        && percent > 100
    {
        return bad(format!("read percentage {percent} must be 0 to 100"));
    }
    if plan.verify && !plan.pattern.writes() {
        return bad("verify: a pattern that only reads has nothing to compare with".into());
    }
    if plan.verifies() && (plan.null_loop || plan.copy_loop) {
        return bad("verify: without the bus there is no disk to compare with".into());
    }
    let reactors = reactor::all();
    if let Some(core) = plan.cores.iter().find(|&core| reactors.iter().all(|r| r.core != core)) {
        return bad(format!("cores: no reactor runs on core {core}"));
    }
    Ok(())
}

/// The part of the bdev for the worker on the `index`th core: all of it, or its share when the run
/// verifies.
fn span_of(plan: &Plan, desc: &Desc, index: u64) -> Result<Span> {
    let geometry = desc.bdev.geometry();
    let bad =
        |what: String| Err(Error::new(libc::EINVAL, format!("bdev {}: {what}", desc.bdev.name)));
    if !plan.io_size.is_multiple_of(geometry.block_size) {
        let (io_size, block_size) = (plan.io_size, geometry.block_size);
        return bad(format!("io size {io_size} must be a multiple of its block size {block_size}"));
    }
    let units = geometry.num_blocks / u64::from(plan.io_size / geometry.block_size);
    let workers = plan.cores.len() as u64;
    let share = units / workers;
    let span = if plan.verifies() {
        Span { first: index * share, len: share.min(MAX_VERIFIED), start: 0 }
    } else {
        Span { first: 0, len: units, start: index * share }
    };
    let least = if plan.verifies() { u64::from(plan.depth) + 1 } else { 1 };
    if span.len < least {
        return bad(format!(
            "it is too small: {least} I/O of {} bytes per core are the least, it holds {}",
            plan.io_size, span.len
        ));
    }
    Ok(span)
}

impl Plan {
    fn verifies(&self) -> bool {
        self.verify || self.pattern == Pattern::Verify
    }
}

fn gather(plan: &Plan, workers: usize, receiver: &Receiver<Outcome>) -> Result<Vec<Report>> {
    let deadline = match plan.limit {
        Limit::Time(time) => Some(Instant::now() + plan.warm_up + time + DRAIN),
        Limit::Ios(_) => None,
    };
    let mut reports = Vec::new();
    while reports.len() < workers {
        let outcome = match deadline {
            Some(deadline) => {
                receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let Ok(report) = outcome else {
            let missing = workers - reports.len();
            return Err(Error::new(
                libc::ETIMEDOUT,
                format!("{missing} of {workers} workers still have I/O that does not end"),
            ));
        };
        reports.push(report);
    }
    reports.sort_by(|a, b| (&a.bdev, a.core).cmp(&(&b.bdev, b.core)));
    Ok(reports)
}

/// The descriptors of a run; closed with it.
#[derive(Default)]
struct Opened(Vec<Arc<Desc>>);

impl Opened {
    fn open(&mut self, name: &str, writable: bool) -> Result<Arc<Desc>> {
        let desc = desc::open(0, name, writable, None, std::ptr::null_mut()).map_err(|error| {
            Error::new(error.errno(), format!("bdev {name}: {}", error.message()))
        })?;
        self.0.push(Arc::clone(&desc));
        Ok(desc)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for desc in &self.0 {
            // A worker that never ended has its channel still; so has the descriptor its place.
            if let Err(error) = desc::close(desc.id) {
                tracing::warn!(bdev = desc.bdev.name, "not closed: {error}");
            }
        }
    }
}
