//! The loader's own thread: whatever reads, copies, hashes, verifies or maps files runs here, one job
//! after the other, so that no reactor waits for it.

use super::error::{Error, Result};
use super::manager::Manager;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;

/// Jobs that may wait. One more is refused.
const JOBS_MAX: usize = 1024;

/// Work for the loader's own thread. It may block.
pub(super) type Job = Box<dyn FnOnce(&Manager) + Send>;

/// The way to the thread, which ends after the job in hand when this value goes.
#[derive(Debug)]
pub(super) struct Background {
    jobs: SyncSender<Job>,
}

/// The thread before its start.
pub(super) struct Thread {
    waiting: Receiver<Job>,
}

impl Thread {
    /// Starts it, for the jobs of a manager.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(super) fn start(self, manager: Weak<Manager>) -> Result<()> {
        let run = move || run(&manager, &self.waiting);
        let started = Builder::new().name("loader".to_owned()).spawn(run);
        started.map(drop).map_err(|e| {
            Error::new(e.raw_os_error().unwrap_or(libc::EAGAIN), format!("loader thread: {e}"))
        })
    }
}

impl Background {
    /// The way to a thread that is yet to be started.
    pub(super) fn new() -> (Self, Thread) {
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        (Self { jobs }, Thread { waiting })
    }

    /// Has the thread do something, when it has done what was asked before. Any thread; never waits.
    ///
    /// # Errors
    /// `EBUSY` when too much is waiting.
    pub(super) fn send(&self, job: Job) -> Result<()> {
        self.jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => {
                Error::new(libc::EBUSY, format!("{JOBS_MAX} plugin jobs are waiting; try later"))
            }
            TrySendError::Disconnected(_) => Error::new(libc::ESHUTDOWN, "the host ends"),
        })
    }
}

fn run(manager: &Weak<Manager>, waiting: &Receiver<Job>) {
    leave_the_core();
    while let Ok(job) = waiting.recv() {
        let Some(manager) = manager.upgrade() else { return };
        job(&manager);
    }
}

/// The thread inherits the one core of its reactor, which may spin there: it may run on all others.
fn leave_the_core() {
    let mut all = CpuSet::new();
    for core in 0..CpuSet::count() {
        // It fails only for a core beyond the set.
        let _ = all.set(core);
    }
    // The kernel leaves out the cores that this process may not use; on failure it stays where it is.
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}
