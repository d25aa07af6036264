//! Threads do not move to another core while a plugin may keep thread-local state.
#![allow(clippy::unwrap_used, reason = "test helpers: a panic fails the test")]

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, pins, thread};
use std::sync::mpsc;

const PLUGIN: usize = 7;

/// The core that the thread runs on, after its earlier messages.
fn core_of(id: u64) -> usize {
    let (sender, core) = mpsc::channel();
    thread::send_boxed(id, move || sender.send(thread::info().unwrap().core).unwrap());
    core.recv().unwrap()
}

/// As [`core_of`], in a later round than this call: a round takes at most 64 messages.
fn core_some_rounds_later(id: u64) -> usize {
    for _ in 0..200 {
        core_of(id);
    }
    core_of(id)
}

#[test]
fn a_thread_moves_only_while_no_plugin_forbids_it() {
    let reactors = reactor::start(&CpuSet::parse("[0,1]").unwrap(), Mode::Adaptive).unwrap();
    let (zero, one) = (CpuSet::one(0), CpuSet::one(1));
    let id = thread::create("worker", &zero).unwrap();

    pins::add(PLUGIN, "keeps_tls");
    let refused = thread::set_cpumask(id, one.clone()).unwrap_err();
    assert_eq!(refused.errno(), libc::EBUSY);
    assert_eq!(
        refused.message(),
        "thread worker cannot move to another core, because plugin keeps_tls may keep thread-local \
         state (its door lacks BAY_PF_THREADS_MOVE); unload the plugin first"
    );
    // A mask that contains the thread's core does not move the thread.
    thread::set_cpumask(id, CpuSet::parse("[0,1]").unwrap()).unwrap();
    assert_eq!(core_of(id), 0);

    // A plugin that is loaded after the call, and before the end of the thread's round.
    pins::release(PLUGIN);
    let target = one.clone();
    thread::send_boxed(id, move || {
        thread::set_cpumask(id, target).unwrap();
        thread::send_boxed(id, || pins::add(PLUGIN, "keeps_tls"));
    });
    assert_eq!(core_some_rounds_later(id), 0);

    pins::release(PLUGIN);
    thread::set_cpumask(id, one).unwrap();
    assert_eq!(core_some_rounds_later(id), 1);
    reactors.stop();
}
