//! Workers: OS threads of the host for work that blocks, such as files, name resolution and key derivation.
//!
//! A job waits in one bounded queue and runs on one of a few threads, which are made when they are needed and then kept. Its end is a
//! message to the lightweight thread that submitted it. A plugin that stops waits until none of its jobs runs (`end_owner`).
#![expect(unsafe_code, reason = "jobs are function pointers of the ABI with their argument")]

use crate::reactor::thread;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use drivebay_plugin_api::bay_job;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Threads at most.
const THREADS_MAX: usize = 4;
/// Jobs that wait at most, of all plugins together.
pub const QUEUE_MAX: usize = 256;

/// A job from its submit to its end. Its memory is the plugin's.
struct Job {
    job: *mut bay_job,
    /// Where its end is sent.
    thread: u64,
    /// The host table of the plugin.
    owner: usize,
    is_running: bool,
}

// SAFETY: the plugin gave the job away until its end, and one thread at a time follows the pointer.
unsafe impl Send for Job {}

struct Jobs {
    last: u64,
    by_number: BTreeMap<u64, Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    /// Plugins that stop, with what is called when none of their jobs runs.
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

/// Carries numbers to the threads. One that was canceled is not found in [`Jobs`] any more.
fn queue() -> &'static (Sender<u64>, Receiver<u64>) {
    static QUEUE: OnceLock<(Sender<u64>, Receiver<u64>)> = OnceLock::new();
    QUEUE.get_or_init(|| bounded(QUEUE_MAX))
}

/// Queues a job for a worker; its `done` is sent to the current thread when it has run.
///
/// # Errors
/// `EPERM` outside of a lightweight thread, `EAGAIN` when 256 jobs wait.
///
/// # Safety
/// `job` is valid, has its functions, and is touched by nobody else until `done` is received or [`cancel`] succeeds.
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
            format!("{QUEUE_MAX} jobs wait for a worker already"),
        ));
    }
    jobs.by_number.insert(number, Job { job, thread, owner, is_running: false });
    if receiver.len() > jobs.idle && jobs.threads < THREADS_MAX {
        let name = format!("worker_{}", jobs.threads);
        match std::thread::Builder::new().name(name).spawn(work) {
            Ok(_) => jobs.threads += 1,
            // Those that there are take it.
            Err(error) if jobs.threads > 0 => tracing::warn!("no more workers: {error}"),
            Err(error) => {
                jobs.by_number.remove(&number);
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Takes a job that has not begun off the queue: it never runs, and its `done` is not sent.
///
/// # Errors
/// `EBUSY` when it runs or has run: `done` comes.
pub fn cancel(job: *mut bay_job) -> Result<()> {
    let mut jobs = jobs();
    let waiting = jobs.by_number.iter().find(|(_, known)| known.job == job && !known.is_running);
    let Some(number) = waiting.map(|(number, _)| *number) else {
        return Err(Error::new(libc::EBUSY, "the job runs or has run"));
    };
    jobs.by_number.remove(&number);
    Ok(())
}

/// Takes the jobs of a plugin off the queue, and calls `done` on the app thread when none of them runs any more.
pub(crate) fn end_owner(owner: usize, done: impl FnOnce() + Send + 'static) {
    let mut jobs = jobs();
    jobs.by_number.retain(|_, job| job.owner != owner || job.is_running);
    jobs.ending.push((owner, Box::new(done)));
    jobs.settle();
}

impl Jobs {
    /// Calls those that wait for the end of a plugin's jobs.
    fn settle(&mut self) {
        let by_number = &self.by_number;
        let has_ended = |owner| by_number.values().all(|job| job.owner != owner);
        for (_, done) in self.ending.extract_if(.., |(owner, _)| has_ended(*owner)) {
            thread::send_app(done);
        }
    }
}

/// A worker's life.
fn work() {
    let (_, receiver) = queue();
    loop {
        jobs().idle += 1;
        let number = receiver.recv();
        jobs().idle -= 1;
        // The queue is never closed: its sender is a static.
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
    // SAFETY: the job is ours until its end is sent (contract of `submit`).
    let call = unsafe { (*job).run };
    // SAFETY: as above.
    let arg = unsafe { (*job).arg };
    if let Some(call) = call {
        // SAFETY: function and argument belong together; this is a worker.
        unsafe { call(arg) };
    }
    // SAFETY: as above.
    let done = unsafe { &raw mut (*job).done };
    // SAFETY: the message is the plugin's until it is received; nothing of the job is touched afterwards.
    if let Err(error) = unsafe { thread::send(thread, done) } {
        tracing::debug!("the end of a job reaches nobody: {error}");
    }
    let mut now = jobs();
    now.by_number.remove(&number);
    now.settle();
}
