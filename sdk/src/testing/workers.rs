//! The fake host's workers: a job runs in the next round, on an OS thread that the round waits for.
#![expect(unsafe_code, reason = "plays the host's side of the ABI")]

use super::*;

struct Job(*mut api::bay_job);

// SAFETY: the submitter gave the job away, and the round waits for the thread that has it.
unsafe impl Sync for Job {}

impl Job {
    fn run(&self) {
        // SAFETY: a submitted job, run once.
        let run = unsafe { (*self.0).run };
        // SAFETY: as above.
        let arg = unsafe { (*self.0).arg };
        // SAFETY: as above, outside of lightweight threads.
        unsafe { run.unwrap()(arg) };
    }
}

/// Runs the jobs that were submitted before this round.
pub(super) fn run_jobs() {
    for (thread, job) in state(|state| std::mem::take(&mut state.jobs)) {
        let job = Job(job);
        std::thread::scope(|scope| {
            let job = &job;
            scope.spawn(move || job.run());
        });
        // SAFETY: it has run, and its message is sent once.
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
