//! The loader's own thread. It reads, copies, hashes, verifies and maps files, one job after
//! another, so that no reactor waits for them.

use super::error::{Error, Result};
use super::outside::Job;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;

/// The maximum number of jobs that may wait. One more is refused.
const JOBS_MAX: usize = 1024;

/// The queue to the thread. When it is dropped, the thread ends after its current job.
#[derive(Debug)]
pub(super) struct Background {
    jobs: SyncSender<Job>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's error when it cannot create a thread.
    pub(super) fn start() -> Result<Self> {
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let started = Builder::new().name("loader".to_owned()).spawn(move || run(&waiting));
        started.map(|_| Self { jobs }).map_err(|e| {
            Error::new(e.raw_os_error().unwrap_or(libc::EAGAIN), format!("loader thread: {e}"))
        })
    }

    /// Queues a job, which may block, after the earlier ones. Any thread; never waits.
    ///
    /// # Errors
    /// `EBUSY` when too many jobs wait.
    pub(super) fn send(&self, job: Job) -> Result<()> {
        self.jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => {
                Error::new(libc::EBUSY, format!("{JOBS_MAX} plugin jobs are waiting; try later"))
            }
            TrySendError::Disconnected(_) => Error::new(libc::ESHUTDOWN, "the host is stopping"),
        })
    }
}

fn run(waiting: &Receiver<Job>) {
    use_other_cores();
    while let Ok(job) = waiting.recv() {
        job();
    }
}

/// The thread inherits the one core of its reactor, which may spin there. This lets it run on all
/// other cores.
fn use_other_cores() {
    let mut all = CpuSet::new();
    for core in 0..CpuSet::count() {
        // An error means that the core number is too large for the set.
        let _ = all.set(core);
    }
    // The kernel leaves out the cores that this process may not use. On failure the thread stays on
    // its core.
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}
