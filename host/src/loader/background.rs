//! The loader's own thread. It reads, copies, hashes, verifies and maps files, one job after
//! another, so that no reactor waits for them.

use super::error::{Error, Result};
use super::manager::Manager;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;

/// The maximum number of jobs that may wait. One more is refused.
const JOBS_MAX: usize = 1024;

/// Work for the loader's own thread. It may block.
pub(super) type Job = Box<dyn FnOnce(&Manager) + Send>;

/// The queue to the thread. When it is dropped, the thread ends after its current job.
#[derive(Debug)]
pub(super) struct Background {
    jobs: SyncSender<Job>,
}

/// The thread before its start.
pub(super) struct Thread {
    waiting: Receiver<Job>,
}

impl Thread {
    /// Starts the thread for the jobs of a manager.
    ///
    /// # Errors
    /// The system's error when it cannot create a thread.
    pub(super) fn start(self, manager: Weak<Manager>) -> Result<()> {
        let run = move || run(&manager, &self.waiting);
        let started = Builder::new().name("loader".to_owned()).spawn(run);
        started.map(drop).map_err(|e| {
            Error::new(e.raw_os_error().unwrap_or(libc::EAGAIN), format!("loader thread: {e}"))
        })
    }
}

impl Background {
    /// Creates the queue to a thread that is not started yet.
    pub(super) fn new() -> (Self, Thread) {
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        (Self { jobs }, Thread { waiting })
    }

    /// Queues a job for the thread, after the earlier ones. Any thread; never waits.
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

fn run(manager: &Weak<Manager>, waiting: &Receiver<Job>) {
    use_other_cores();
    while let Ok(job) = waiting.recv() {
        let Some(manager) = manager.upgrade() else { return };
        job(&manager);
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
