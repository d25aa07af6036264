//! How `thread_get_stats` counts a thread's time.

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn the_time_of_a_message_is_busy_time_and_that_of_a_sleep_is_idle() {
    let cores = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&cores, Mode::Adaptive).unwrap();
    let work = Duration::from_millis(100);
    let (sender, done) = mpsc::channel();
    thread::send_app(move || {
        std::thread::sleep(work);
        sender.send(()).unwrap();
    });
    done.recv().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (sender, info) = mpsc::channel();
    thread::send_app(move || {
        thread::for_each(thread::info, move |threads| {
            let busy: u64 = threads.iter().flatten().map(|thread| thread.busy_ns).sum();
            let idle: u64 = threads.iter().flatten().map(|thread| thread.idle_ns).sum();
            sender.send((busy, idle)).unwrap();
        });
    });
    let (busy, idle) = info.recv().unwrap();
    assert!(busy >= 100_000_000, "busy {busy} ns");
    assert!(idle >= 200_000_000, "idle {idle} ns");
    reactors.stop();
}
