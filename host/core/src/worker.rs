//! Workers: OS threads of the host for work that blocks, such as files, name resolution and key
//! derivation.
//!
//! A job waits in one bounded queue and runs on one of a few threads. The host creates a thread
//! when it is needed and then keeps it. When the job has run, its `done` message goes to the
//! lightweight thread that submitted it. A plugin stops only when none of its jobs runs any more
//! (`end_owner`).
#![expect(unsafe_code, reason = "jobs are function pointers of the ABI with their argument")]

use crate::reactor::thread;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use drivebay_plugin_api::bay_job;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The maximum number of worker threads.
const THREADS_MAX: usize = 4;
/// The maximum number of jobs that wait, for all plugins together.
pub const QUEUE_MAX: usize = 256;

/// A job from its submission to its `done` message. The plugin owns its memory.
struct Job {
    job: *mut bay_job,
    /// The thread that gets the `done` message.
    thread: u64,
    /// The address of the host table of the plugin.
    owner: usize,
    is_running: bool,
}

// SAFETY: the plugin gave the job away until its `done` message, and only one thread at a time uses
// the pointer.
unsafe impl Send for Job {}

struct Jobs {
    last: u64,
    by_number: BTreeMap<u64, Job>,
    threads: usize,
    /// The number of threads that wait for a job.
    idle: usize,
    /// Plugins that are stopping, each with the function to call when none of its jobs runs.
    ending: Vec<(usize, Box<dyn FnOnce() + Send>)>,
}

static JOBS: Mutex<Jobs> = Mutex::new(Jobs {
    last: 0,
    by_number: BTreeMap::new(),
    threads: 0,
    idle: 0,
    ending: Vec::new(),
});

fn jobs() -> MutexGuard<'static, Jobs> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queue of job numbers. A job that was canceled is not in [`Jobs`] any more.
fn queue() -> &'static (Sender<u64>, Receiver<u64>) {
    static QUEUE: OnceLock<(Sender<u64>, Receiver<u64>)> = OnceLock::new();
    QUEUE.get_or_init(|| bounded(QUEUE_MAX))
}

/// Queues a job for a worker. When it has run, its `done` message is sent to the current thread.
///
/// # Errors
/// `EPERM` outside of a lightweight thread; `EAGAIN` when 256 jobs wait already.
///
/// # Safety
/// `job` is valid, its functions are set, and nobody else touches it until `done` is received or
/// [`cancel`] succeeds.
pub unsafe fn submit(owner: usize, job: *mut bay_job) -> Result<()> {
    let thread = thread::current_id();
    if thread == 0 {
        return Err(Error::new(libc::EPERM, "not on a lightweight thread"));
    }
    let (sender, receiver) = queue();
    let mut jobs = jobs();
    jobs.last += 1;
    let number = jobs.last;
    if sender.try_send(number).is_err() {
        return Err(Error::new(
            libc::EAGAIN,
            format!("{QUEUE_MAX} jobs already wait for a worker; try again later"),
        ));
    }
    jobs.by_number.insert(number, Job { job, thread, owner, is_running: false });
    if receiver.len() > jobs.idle && jobs.threads < THREADS_MAX {
        let name = format!("worker_{}", jobs.threads);
        match std::thread::Builder::new().name(name).spawn(work) {
            Ok(_) => jobs.threads += 1,
            // The job waits for one of the existing threads, which runs it later.
            Err(error) if jobs.threads > 0 => {
                tracing::warn!("cannot create another worker thread: {error}")
            }
            Err(error) => {
                jobs.by_number.remove(&number);
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Removes a job that has not started from the queue. The job never runs, and its `done` message is
/// not sent.
///
/// # Errors
/// `EBUSY` when the job runs or has run; its `done` message follows.
pub fn cancel(job: *mut bay_job) -> Result<()> {
    let mut jobs = jobs();
    let waiting = jobs.by_number.iter().find(|(_, known)| known.job == job && !known.is_running);
    let Some(number) = waiting.map(|(number, _)| *number) else {
        return Err(Error::new(libc::EBUSY, "the job runs or has run"));
    };
    jobs.by_number.remove(&number);
    Ok(())
}

/// Removes the waiting jobs of a plugin. Calls `done` on the app thread when none of its jobs runs
/// any more.
pub(crate) fn end_owner(owner: usize, done: impl FnOnce() + Send + 'static) {
    let mut jobs = jobs();
    jobs.by_number.retain(|_, job| job.owner != owner || job.is_running);
    jobs.ending.push((owner, Box::new(done)));
    jobs.settle();
}

impl Jobs {
    /// Calls the waiting functions of plugins whose jobs have all ended.
    fn settle(&mut self) {
        let by_number = &self.by_number;
        let has_ended = |owner| by_number.values().all(|job| job.owner != owner);
        for (_, done) in self.ending.extract_if(.., |(owner, _)| has_ended(*owner)) {
            thread::send_app(done);
        }
    }
}

/// The loop of a worker thread.
fn work() {
    let (_, receiver) = queue();
    loop {
        jobs().idle += 1;
        let number = receiver.recv();
        jobs().idle -= 1;
        // The queue is never closed, because its sender is a static.
        let Ok(number) = number else { return };
        run(number);
    }
}

fn run(number: u64) {
    let mut now = jobs();
    let Some(job) = now.by_number.get_mut(&number) else { return };
    job.is_running = true;
    let (job, thread) = (job.job, job.thread);
    drop(now);
    // SAFETY: the job is ours until its `done` message is sent (contract of `submit`).
    let call = unsafe { (*job).run };
    // SAFETY: as above.
    let arg = unsafe { (*job).arg };
    if let Some(call) = call {
        // SAFETY: the function and its argument belong together, and this is a worker.
        unsafe { call(arg) };
    }
    // SAFETY: as above.
    let done = unsafe { &raw mut (*job).done };
    // SAFETY: we own the message until it is sent; nothing touches the job afterwards.
    if let Err(error) = unsafe { thread::send(thread, done) } {
        tracing::debug!("a job has ended, but its thread is gone: {error}");
    }
    let mut now = jobs();
    now.by_number.remove(&number);
    now.settle();
}
