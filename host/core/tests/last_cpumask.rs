//! Several calls that set the cores of a thread in one of its rounds.

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use std::sync::mpsc;

#[test]
fn the_last_of_several_masks_says_where_a_thread_runs() {
    let reactors = reactor::start(&CpuSet::parse("[0,1]").unwrap(), Mode::Adaptive).unwrap();
    let id = thread::create("worker", &CpuSet::one(0)).unwrap();
    thread::send_boxed(id, move || {
        thread::set_cpumask(id, CpuSet::one(1)).unwrap();
        thread::set_cpumask(id, CpuSet::one(0)).unwrap();
    });
    // A round takes at most 64 messages, so the last of these arrives in a later round.
    let mut core = None;
    for _ in 0..200 {
        let (sender, answer) = mpsc::channel();
        thread::send_boxed(id, move || sender.send(thread::info().unwrap().core).unwrap());
        core = Some(answer.recv().unwrap());
    }
    assert_eq!(core, Some(0));
    reactors.stop();
}
