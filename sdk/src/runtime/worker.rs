//! Blocking work on threads of the host: files, name resolution, key derivation.
//!
//! The host has a few such threads for all plugins, with a bounded queue. Nothing can interrupt work that has started, so give it
//! a time limit of its own if possible. The plugin's stop waits for it.
#![expect(unsafe_code, reason = "the host passes a pointer to the job")]

use super::executor::{Executor, Hold};
use super::task::oneshot;
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::{Worker, host};
use drivebay_plugin_api::{bay_job, bay_msg};
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

/// Runs `work` on a worker and waits for its result. `name` appears in lists and errors. Dropping the future cancels work that has
/// not started; work that has started continues, and its result is dropped. `[any lightweight thread]`
///
/// ```
/// # async fn example() -> drivebay_sdk::Result<String> {
/// use drivebay_sdk::runtime::worker;
///
/// let key = worker::run("read key", || std::fs::read_to_string("/etc/drivebay/key")).await??;
/// # Ok(key)
/// # }
/// ```
///
/// # Errors
/// `EAGAIN` when the host's queue is full, `ENOSYS` when the host has no workers, `EIO` when `work` panicked.
pub async fn run<T: Send + 'static>(
    name: impl Into<Cow<'static, str>>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let name = name.into();
    let table = workers()?;
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        // This fails when the future was dropped; then no one needs the result.
        let _ = sender.send(work());
    };
    let submitted = Submitted::new(table, &name, Box::new(work))?;
    let result = receiver.await;
    drop(submitted);
    result.map_err(|_| Error::new(errno::EIO, format!("{name}: the work on a worker panicked")))
}

fn workers() -> Result<&'static Worker> {
    let lacking = || Error::new(errno::ENOSYS, "the host lacks bay.draft.worker/1");
    host().worker.as_ref().ok_or_else(lacking)
}

/// A job. The host owns it from its submit to its end.
#[repr(C)]
struct Job {
    job: bay_job,
    work: Option<Box<dyn FnOnce() + Send>>,
    /// Used on the submitting thread only.
    of_submitter: OfSubmitter,
}

struct OfSubmitter {
    _hold: Hold,
    has_ended: Rc<Cell<bool>>,
}

/// A submitted job. Dropping it cancels the job if it has not started.
struct Submitted {
    table: &'static Worker,
    job: *mut Job,
    has_ended: Rc<Cell<bool>>,
}

impl Submitted {
    fn new(table: &'static Worker, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<Self> {
        let has_ended = Rc::new(Cell::new(false));
        let hold = Hold::new(&Executor::here()?, format!("worker: {name}"));
        let msg =
            bay_msg { call: Some(job_done), arg: ptr::null_mut(), link: ptr::null_mut(), rsv: 0 };
        let job = Box::into_raw(Box::new(Job {
            job: bay_job { run: Some(run_job), arg: ptr::null_mut(), done: msg },
            work: Some(work),
            of_submitter: OfSubmitter { _hold: hold, has_ended: Rc::clone(&has_ended) },
        }));
        // SAFETY: this function owns the allocation, which is not submitted yet.
        unsafe { (*job).job.arg = job.cast() };
        // SAFETY: as above.
        unsafe { (*job).job.done.arg = job.cast() };
        let host = host();
        // SAFETY: the host owns the job until `job_done`, or until it is canceled.
        let status = unsafe { (table.submit)(host.raw, job.cast()) };
        if status != 0 {
            // SAFETY: the host refused the job, so this function still owns it.
            drop(unsafe { Box::from_raw(job) });
        }
        check(status, name)?;
        Ok(Self { table, job, has_ended })
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if self.has_ended.get() {
            return;
        }
        let host = host();
        // SAFETY: the job has not ended, so its memory is valid.
        if unsafe { (self.table.cancel)(host.raw, self.job.cast()) } == 0 {
            // SAFETY: the job was canceled, so the host calls neither `run_job` nor `job_done`.
            drop(unsafe { Box::from_raw(self.job) });
        }
    }
}

/// `[worker]`
unsafe extern "C" fn run_job(arg: *mut c_void) {
    // SAFETY: `arg` is the job, which only this worker uses now; this code touches only `work`.
    let work = unsafe { &mut (*arg.cast::<Job>()).work };
    let work = work.take();
    enter((), || {
        if let Some(work) = work {
            work();
        }
    });
}

/// `[thread of the submit]`
unsafe extern "C" fn job_done(arg: *mut c_void) {
    // SAFETY: `arg` is the job; the host returns it once.
    let job = unsafe { Box::from_raw(arg.cast::<Job>()) };
    job.of_submitter.has_ended.set(true);
    enter((), || drop(job));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::task;
    use crate::testing::FakeHost;
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn run_task<T: 'static>(host: &FakeHost, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let to = Rc::clone(&result);
        let run = async move {
            let output = future.await;
            *to.borrow_mut() = Some(output);
        };
        task::spawn("test", run).unwrap().detach();
        host.wait(|| result.take())
    }

    #[test]
    fn work_runs_on_another_thread_of_the_system_and_its_result_comes_back() {
        let host = FakeHost::new();
        let here = std::thread::current().id();
        let there = run_task(&host, run("who", || std::thread::current().id())).unwrap();
        assert_ne!(there, here);
    }

    #[test]
    fn work_that_was_not_begun_is_taken_back_when_nobody_waits() {
        let (host, has_run) = (FakeHost::new(), Arc::new(AtomicBool::new(false)));
        let of_work = Arc::clone(&has_run);
        let work = run("late", move || of_work.store(true, Ordering::Relaxed));
        let limited = task::spawn("limited", async move {
            let mut work = std::pin::pin!(work);
            task::select(work.as_mut(), async {}).await;
            task::list_in_flight().len()
        });
        assert_eq!(run_task(&host, limited.unwrap()), Ok(1));
        assert!(task::list_in_flight().is_empty());
        host.run();
        assert!(!has_run.load(Ordering::Relaxed));
    }

    #[test]
    fn work_that_panics_is_an_error_of_its_caller() {
        fn panics() {
            panic!("in work");
        }
        let host = FakeHost::new();
        let error = run_task(&host, run("broken", panics)).unwrap_err();
        assert_eq!(
            (error.errno(), error.message()),
            (errno::EIO, "broken: the work on a worker panicked")
        );
    }
}
