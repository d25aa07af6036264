//! The fake host's workers. A job runs in the next round, on an OS thread, and the round waits for it.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]

use super::*;

struct Job(*mut api::bay_job);

// SAFETY: the submitter has given the job away, and the round waits for the thread that runs it.
unsafe impl Sync for Job {}

impl Job {
    fn run(&self) {
        // SAFETY: the job is submitted and runs once.
        let run = unsafe { (*self.0).run };
        // SAFETY: as above.
        let arg = unsafe { (*self.0).arg };
        // SAFETY: as above; this is not a lightweight thread.
        unsafe { run.unwrap()(arg) };
    }
}

/// Runs the jobs submitted before this round.
pub(super) fn run_jobs() {
    for (thread, job) in state(|state| std::mem::take(&mut state.jobs)) {
        let job = Job(job);
        std::thread::scope(|scope| {
            let job = &job;
            scope.spawn(move || job.run());
        });
        // SAFETY: the job has run, and its message is sent once.
        let done = unsafe { &raw mut (*job.0).done };
        // SAFETY: the fake host's own function.
        unsafe { send(&raw const TABLE.0, thread, done) };
    }
}

pub(super) unsafe extern "C" fn job_submit(_: H, job: *mut api::bay_job) -> i32 {
    state(|state| {
        let thread = state.threads.current();
        state.jobs.push_back((thread, job));
    });
    0
}

pub(super) unsafe extern "C" fn job_cancel(_: H, job: *mut api::bay_job) -> i32 {
    state(|state| match state.jobs.iter().position(|(_, waiting)| *waiting == job) {
        Some(place) => {
            state.jobs.remove(place);
            0
        }
        None => -crate::errno::EBUSY,
    })
}
