//! The plugin interfaces `bay.thread/1` and `bay.poller/1`.

use super::{failed, status, string};
use crate::env::CpuSet;
use crate::reactor::poller::State;
use crate::reactor::{self, clock, thread};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::ffi::c_void;

pub(super) static THREAD: bay_thread_api = bay_thread_api {
    size: size_of_table::<bay_thread_api>(),
    flags: 0,
    current: Some(current),
    app_thread: Some(app_thread),
    next_core: Some(next_core),
    create: Some(create),
    exit: Some(exit),
    set_cpumask: Some(set_cpumask),
    send: Some(send),
    now_ns: Some(now_ns),
};

unsafe extern "C" fn current(_host: *const bay_host) -> u64 {
    thread::current_id()
}

unsafe extern "C" fn app_thread(_host: *const bay_host) -> u64 {
    thread::app()
}

unsafe extern "C" fn next_core(_host: *const bay_host, after: i32) -> i32 {
    let cores = reactor::all().iter().filter_map(|reactor| i32::try_from(reactor.core).ok());
    cores.filter(|&core| core > after).min().unwrap_or(-1)
}

unsafe extern "C" fn create(
    _host: *const bay_host,
    name: bay_str,
    cpumask: bay_str,
    id: *mut u64,
) -> i32 {
    // SAFETY: the text is valid for the call.
    let name = unsafe { string(name) };
    // SAFETY: the text is valid for the call.
    let mask = unsafe { string(cpumask) };
    match any_or(&mask).and_then(|mask| thread::create(&name, &mask)) {
        Ok(handle) => {
            // SAFETY: the caller passes a valid pointer for the handle.
            unsafe { id.write(handle) };
            0
        }
        Err(error) => failed(&error),
    }
}

/// Parses the mask; an empty one means all reactors.
fn any_or(mask: &str) -> Result<CpuSet> {
    if !mask.is_empty() {
        return CpuSet::parse(mask);
    }
    let cores: Vec<String> = reactor::all().iter().map(|r| r.core.to_string()).collect();
    CpuSet::parse(&format!("[{}]", cores.join(",")))
}

unsafe extern "C" fn exit(_host: *const bay_host, id: u64) -> i32 {
    if thread::current_id() != id {
        return -libc::EPERM;
    }
    thread::exit_current();
    0
}

unsafe extern "C" fn set_cpumask(_host: *const bay_host, id: u64, cpumask: bay_str) -> i32 {
    // SAFETY: the text is valid for the call.
    let mask = unsafe { string(cpumask) };
    status(any_or(&mask).and_then(|mask| thread::set_cpumask(id, mask)))
}

unsafe extern "C" fn send(_host: *const bay_host, id: u64, msg: *mut bay_msg) -> i32 {
    // SAFETY: the caller gives the message away until it is called.
    status(unsafe { thread::send(id, msg) })
}

unsafe extern "C" fn now_ns(_host: *const bay_host) -> u64 {
    clock::now()
}

pub(super) static POLLER: bay_poller_api = bay_poller_api {
    size: size_of_table::<bay_poller_api>(),
    flags: 0,
    register: Some(register),
    unregister: Some(unregister),
    pause: Some(pause),
    resume: Some(resume),
    wake_fd: Some(wake_fd),
};

fn here<T>(f: impl FnOnce(&thread::Thread) -> Result<T>) -> Result<T> {
    thread::with_current(f)
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

unsafe extern "C" fn register(
    host: *const bay_host,
    ops: *const bay_poller_ops,
    ctx: *mut c_void,
    period_us: u64,
    name: bay_str,
    poller: *mut u64,
) -> i32 {
    // SAFETY: an open struct of the ABI, valid for the call.
    let Some(ops) = (unsafe { copy_open(ops) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let name = unsafe { string(name) };
    let added = here(|thread| {
        // SAFETY: the plugin keeps the functions and the context until it unregisters the poller.
        unsafe { thread.add_poller(name, host as usize, ops, ctx, period_us) }
    });
    match added {
        Ok(handle) => {
            // SAFETY: the caller passes a valid pointer for the handle.
            unsafe { poller.write(handle) };
            0
        }
        Err(error) => failed(&error),
    }
}

unsafe extern "C" fn unregister(_host: *const bay_host, poller: u64) -> i32 {
    status(here(|thread| thread.set_poller_state(poller, State::Gone)))
}

unsafe extern "C" fn pause(_host: *const bay_host, poller: u64) -> i32 {
    status(here(|thread| thread.set_poller_state(poller, State::Paused)))
}

unsafe extern "C" fn resume(_host: *const bay_host, poller: u64) -> i32 {
    status(here(|thread| thread.set_poller_state(poller, State::Active)))
}

unsafe extern "C" fn wake_fd(_host: *const bay_host, poller: u64, fd: i32, events: u32) -> i32 {
    // poll(2) and epoll use the same bits for input, output, error and hang-up.
    status(here(|thread| thread.watch_fd(poller, fd, events)))
}
