//! The load generator of `drivebay perf`. It keeps a number of I/O in flight and measures them.
//!
//! ```text
//! run ─ one worker for each bdev and core, each a lightweight thread with its own channel
//!         worker   submits an I/O, submits the next one from its callback; allocates nothing per I/O
//!         places   whether the next I/O reads or writes, and where
//!         worker/zoned  the steps of a run that verifies a zoned bdev
//!         content  the data of runs that verify
//!         histogram, ticks   how long each I/O took
//! ```

mod content;
mod histogram;
mod places;
mod plan;
mod ticks;
mod worker;

pub use content::Mismatch;
pub use histogram::Histogram;
pub use plan::{Failure, Limit, Pattern, Plan, Report, Results};

use crate::bdev::{Desc, desc};
use crate::env::CpuSet;
use crate::reactor::{self, thread};
use crate::{Error, Result};
use places::Span;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use worker::{Order, Outcome};

/// The maximum number of I/O in flight for one worker.
pub const MAX_DEPTH: u32 = 32_768;
/// The largest I/O, in bytes.
pub const MAX_IO_SIZE: u32 = 64 << 20;
/// The maximum number of units that one worker uses when the run verifies. The worker does not
/// access the rest of the bdev.
const MAX_VERIFIED: u64 = 16 << 20;
/// How long I/O in flight may take to complete after the end of the run.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs the plan and waits for its end. Setting `stop` ends it early. The reactors must run, and
/// the caller must not be on one.
///
/// # Errors
/// `EINVAL` with the field of the plan; `ENODEV` and `EPERM` from opening a bdev; `ETIMEDOUT` when
/// some I/O does not complete.
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
        return bad("verify: a pattern that only reads has no written data to compare with".into());
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

/// The part of the bdev for the worker on the `index`-th core: the whole bdev, or the worker's
/// share when the run verifies.
fn span_of(plan: &Plan, desc: &Desc, index: u64) -> Result<Span> {
    let geometry = desc.bdev.geometry();
    let bad =
        |what: String| Err(Error::new(libc::EINVAL, format!("bdev {}: {what}", desc.bdev.name)));
    if !plan.io_size.is_multiple_of(geometry.block_size) {
        let (io_size, block_size) = (plan.io_size, geometry.block_size);
        return bad(format!("io size {io_size} must be a multiple of its block size {block_size}"));
    }
    if desc.bdev.record.zone_size != 0 && plan.pattern.writes() {
        return zones_of(plan, desc, index).or_else(bad);
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
            "it is too small: each core needs room for at least {least} I/O of {} bytes, and there is room for {}",
            plan.io_size, span.len
        ));
    }
    Ok(span)
}

/// The zones of the worker on the `index`-th core.
fn zones_of(plan: &Plan, desc: &Desc, index: u64) -> Result<Span, String> {
    let (record, depth) = (&desc.bdev.record, u64::from(plan.depth));
    if plan.pattern != Pattern::Verify {
        return Err("it is zoned, so the only pattern that may write is verify".to_owned());
    }
    let most = u64::from(desc.bdev.max_zone_append()) * u64::from(record.block_size);
    if u64::from(plan.io_size) > most {
        return Err(format!("io size {} must be at most {most}, the longest append", plan.io_size));
    }
    let workers = plan.cores.len() as u64;
    let open = [record.max_open_zones, record.max_active_zones];
    let open = open.into_iter().filter(|limit| *limit != 0).min().map_or(u64::MAX, u64::from);
    let share = desc.bdev.geometry().num_blocks / record.zone_size / workers;
    let depth_max = share.min(open / workers);
    if depth > depth_max {
        return Err(format!(
            "depth {depth} must be at most {depth_max}: each I/O in flight has its own open zone"
        ));
    }
    Ok(Span { first: index * share, len: share, start: 0 })
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
                format!("{missing} of {workers} workers still have I/O that does not complete"),
            ));
        };
        reports.push(report);
    }
    reports.sort_by(|a, b| (&a.bdev, a.core).cmp(&(&b.bdev, b.core)));
    Ok(reports)
}

/// The descriptors of a run. They are closed when it is dropped.
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
            // A worker that did not end still has its channel, so its descriptor cannot be closed.
            if let Err(error) = desc::close(desc.id) {
                tracing::warn!(bdev = desc.bdev.name, "cannot close the bdev: {error}");
            }
        }
    }
}
