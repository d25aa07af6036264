//! Worker threads of the host, on its real reactors.
#![expect(unsafe_code, reason = "submits jobs as a plugin does")]
#![expect(clippy::unwrap_used, reason = "for tests")]

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_core::{services, worker};
use drivebay_plugin_api::{bay_host, bay_job, bay_msg};
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{self, Receiver, Sender};

/// A job that waits until the test lets it continue. It records where it ran and where its `done`
/// message arrived.
#[repr(C)]
struct Job {
    job: bay_job,
    begun: Sender<()>,
    goes_on: Receiver<()>,
    ended: Sender<u64>,
}

struct Sent(*mut Job);

// SAFETY: the test gives the job to one thread at a time.
unsafe impl Send for Sent {}

unsafe extern "C" fn run(arg: *mut c_void) {
    // SAFETY: the worker owns the job now.
    let job = unsafe { &*arg.cast::<Job>() };
    assert_eq!(thread::current_id(), 0, "a worker is not a lightweight thread");
    job.begun.send(()).unwrap();
    job.goes_on.recv().unwrap();
}

unsafe extern "C" fn done(arg: *mut c_void) {
    // SAFETY: the test owns the job again.
    let job = unsafe { Box::from_raw(arg.cast::<Job>()) };
    job.ended.send(thread::current_id()).unwrap();
}

/// The test's side of a job.
struct Handle {
    begun: Receiver<()>,
    go_on: Sender<()>,
    ended: Receiver<u64>,
}

fn job() -> (Sent, Handle) {
    let ((begin, begun), (go_on, goes_on), (end, ended)) =
        (mpsc::channel(), mpsc::channel(), mpsc::channel());
    let msg = bay_msg { call: Some(done), arg: ptr::null_mut(), link: ptr::null_mut(), rsv: 0 };
    let raw = bay_job { run: Some(run), arg: ptr::null_mut(), done: msg };
    let job = Box::into_raw(Box::new(Job { job: raw, begun: begin, goes_on, ended: end }));
    // SAFETY: the test owns the job, which is not submitted yet.
    unsafe { (*job).job.arg = job.cast() };
    // SAFETY: as above.
    unsafe { (*job).job.done.arg = job.cast() };
    (Sent(job), Handle { begun, go_on, ended })
}

/// Runs `call` on the app thread and waits for its result.
fn on_app<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::send_app(move || sender.send(call()).unwrap());
    receiver.recv().unwrap()
}

/// Submits a job on the app thread for the plugin `owner`. Returns 0 or the errno.
fn submit(owner: usize, job: Sent) -> i32 {
    on_app(move || {
        let Sent(raw) = { job };
        // SAFETY: the job stays valid until its `done` message.
        unsafe { worker::submit(owner, raw.cast()) }.map_or_else(|error| error.errno(), |()| 0)
    })
}

/// The owner ids of two plugins.
const FIRST: usize = 24;
const SECOND: usize = 48;

#[test]
fn jobs_run_beside_the_reactors_within_limits_and_a_plugin_ends_after_its_own() {
    let cores = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&cores, Mode::Adaptive).unwrap();

    // The `done` message arrives on the thread that submitted the job.
    let (raw, handle) = job();
    assert_eq!(submit(FIRST, raw), 0);
    handle.begun.recv().unwrap();
    handle.go_on.send(()).unwrap();
    assert_eq!(handle.ended.recv().unwrap(), thread::app());

    // Four jobs run at the same time. A waiting job can be canceled, a running one cannot.
    let running: Vec<Handle> = (0..4)
        .map(|_| {
            let (raw, handle) = job();
            assert_eq!(submit(FIRST, raw), 0);
            handle.begun.recv().unwrap();
            handle
        })
        .collect();
    let (raw, waiting) = job();
    let pointer = raw.0 as usize;
    assert_eq!(submit(FIRST, raw), 0);
    assert!(worker::cancel(pointer as *mut bay_job).is_ok());
    assert!(worker::cancel(pointer as *mut bay_job).is_err());
    // SAFETY: the job was canceled.
    drop(unsafe { Box::from_raw(pointer as *mut Job) });
    assert!(waiting.begun.recv().is_err(), "it never ran");

    // The queue is bounded. The number of the canceled job still takes a place in it.
    let mut accepted = Vec::new();
    let refused = loop {
        let (raw, handle) = job();
        let pointer = raw.0 as usize;
        match submit(SECOND, raw) {
            0 => accepted.push((pointer, handle)),
            errno => {
                // SAFETY: the job was refused.
                drop(unsafe { Box::from_raw(pointer as *mut Job) });
                break errno;
            }
        }
    };
    assert_eq!((refused, accepted.len()), (11, worker::QUEUE_MAX - 1));

    // When a plugin stops, its waiting jobs are removed, and the stop waits for its running jobs.
    let (stopped, has_stopped) = mpsc::channel();
    services::release_owner(SECOND as *const bay_host, move || stopped.send(()).unwrap());
    has_stopped.recv().unwrap();
    for (pointer, handle) in accepted {
        assert!(handle.begun.try_recv().is_err(), "it never ran");
        // SAFETY: the job was removed from the queue.
        drop(unsafe { Box::from_raw(pointer as *mut Job) });
    }
    let (stopped, has_stopped) = mpsc::channel();
    services::release_owner(FIRST as *const bay_host, move || stopped.send(()).unwrap());
    on_app(|| ());
    assert!(has_stopped.try_recv().is_err(), "its jobs still run");
    for handle in &running {
        handle.go_on.send(()).unwrap();
    }
    has_stopped.recv().unwrap();
    reactors.stop();
}
