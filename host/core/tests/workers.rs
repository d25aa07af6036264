//! Workers of the host, on its real reactors.
#![expect(unsafe_code, reason = "submits jobs as a plugin does")]
#![expect(clippy::unwrap_used, reason = "for tests")]

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_core::{services, worker};
use drivebay_plugin_api::{bay_host, bay_job, bay_msg};
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{self, Receiver, Sender};

/// A job that waits until it may go on, and says where it ran and where its end came.
#[repr(C)]
struct Job {
    job: bay_job,
    begun: Sender<()>,
    goes_on: Receiver<()>,
    ended: Sender<u64>,
}

struct Sent(*mut Job);

// SAFETY: the test gives it to one thread at a time.
unsafe impl Send for Sent {}

unsafe extern "C" fn run(arg: *mut c_void) {
    // SAFETY: the job is the worker's now.
    let job = unsafe { &*arg.cast::<Job>() };
    assert_eq!(thread::current_id(), 0, "no lightweight thread is held up");
    job.begun.send(()).unwrap();
    job.goes_on.recv().unwrap();
}

unsafe extern "C" fn done(arg: *mut c_void) {
    // SAFETY: the job is ours again.
    let job = unsafe { Box::from_raw(arg.cast::<Job>()) };
    job.ended.send(thread::current_id()).unwrap();
}

/// What the test has of a job.
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
    // SAFETY: ours, not submitted yet.
    unsafe { (*job).job.arg = job.cast() };
    // SAFETY: as above.
    unsafe { (*job).job.done.arg = job.cast() };
    (Sent(job), Handle { begun, go_on, ended })
}

/// Runs `call` on the app thread and waits for it.
fn on_app<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::send_app(move || sender.send(call()).unwrap());
    receiver.recv().unwrap()
}

/// Submits on the app thread, as `owner`; 0 or the errno.
fn submit(owner: usize, job: Sent) -> i32 {
    on_app(move || {
        let Sent(raw) = { job };
        // SAFETY: the job stays until its end.
        unsafe { worker::submit(owner, raw.cast()) }.map_or_else(|error| error.errno(), |()| 0)
    })
}

/// Two plugins.
const FIRST: usize = 24;
const SECOND: usize = 48;

#[test]
fn jobs_run_beside_the_reactors_within_limits_and_a_plugin_ends_after_its_own() {
    let cores = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&cores, Mode::Adaptive).unwrap();

    // The end comes to the thread of the submit.
    let (raw, handle) = job();
    assert_eq!(submit(FIRST, raw), 0);
    handle.begun.recv().unwrap();
    handle.go_on.send(()).unwrap();
    assert_eq!(handle.ended.recv().unwrap(), thread::app());

    // Four run at once; what waits behind them can be taken back, what runs cannot.
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
    // SAFETY: it was taken back.
    drop(unsafe { Box::from_raw(pointer as *mut Job) });
    assert!(waiting.begun.recv().is_err(), "it never ran");

    // The queue has an end: the number of the job that was taken back still has its place.
    let mut accepted = Vec::new();
    let refused = loop {
        let (raw, handle) = job();
        let pointer = raw.0 as usize;
        match submit(SECOND, raw) {
            0 => accepted.push((pointer, handle)),
            errno => {
                // SAFETY: it was refused.
                drop(unsafe { Box::from_raw(pointer as *mut Job) });
                break errno;
            }
        }
    };
    assert_eq!((refused, accepted.len()), (11, worker::QUEUE_MAX - 1));

    // A plugin that stops: what waits is taken off, what runs is waited for.
    let (stopped, has_stopped) = mpsc::channel();
    services::release_owner(SECOND as *const bay_host, move || stopped.send(()).unwrap());
    has_stopped.recv().unwrap();
    for (pointer, handle) in accepted {
        assert!(handle.begun.try_recv().is_err(), "it never ran");
        // SAFETY: it was taken off the queue.
        drop(unsafe { Box::from_raw(pointer as *mut Job) });
    }
    let (stopped, has_stopped) = mpsc::channel();
    services::release_owner(FIRST as *const bay_host, move || stopped.send(()).unwrap());
    on_app(|| ());
    assert!(has_stopped.try_recv().is_err(), "its jobs run");
    for handle in &running {
        handle.go_on.send(()).unwrap();
    }
    has_stopped.recv().unwrap();
    reactors.stop();
}
