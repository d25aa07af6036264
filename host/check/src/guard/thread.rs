//! `bay.thread/1` for a guarded plugin: messages are watched, and threads are counted.

use super::core;
use crate::calls::{self, Call};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of threads that the plugin created and that have not ended.
static THREADS: AtomicU64 = AtomicU64::new(0);

pub(super) fn live() -> u64 {
    THREADS.load(Ordering::Relaxed)
}

pub(super) static TABLE: LazyLock<bay_thread_api> = LazyLock::new(|| bay_thread_api {
    create: Some(create),
    exit: Some(exit),
    send: Some(send),
    ..*core::thread()
});

/// The guard's message, which carries the plugin's message.
#[repr(C)]
struct Carrier {
    own: bay_msg,
    carried: *mut bay_msg,
}

unsafe extern "C" fn create(
    host: *const bay_host,
    name: bay_str,
    cpumask: bay_str,
    id: *mut u64,
) -> i32 {
    let _host = calls::leave();
    let Some(create) = core::thread().create else { return -libc::ENOSYS };
    // SAFETY: forwards the call.
    let status = unsafe { create(host, name, cpumask, id) };
    if status == 0 {
        THREADS.fetch_add(1, Ordering::Relaxed);
    }
    status
}

unsafe extern "C" fn exit(host: *const bay_host, id: u64) -> i32 {
    let _host = calls::leave();
    let Some(exit) = core::thread().exit else { return -libc::ENOSYS };
    // SAFETY: forwards the call.
    let status = unsafe { exit(host, id) };
    if status == 0 {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
    status
}

unsafe extern "C" fn send(host: *const bay_host, thread: u64, msg: *mut bay_msg) -> i32 {
    let _host = calls::leave();
    let Some(send) = core::thread().send else { return -libc::ENOSYS };
    let own = bay_msg { call: Some(deliver), arg: ptr::null_mut(), link: ptr::null_mut(), rsv: 0 };
    let carrier = Box::into_raw(Box::new(Carrier { own, carried: msg }));
    // SAFETY: it was just made.
    unsafe { (*carrier).own.arg = carrier.cast() };
    // SAFETY: the guard's message is the first field of a box that lives until the message is
    // delivered.
    let status = unsafe { send(host, thread, carrier.cast()) };
    if status != 0 {
        // SAFETY: the host refused the message, so it still belongs to us.
        drop(unsafe { Box::from_raw(carrier) });
    }
    status
}

unsafe extern "C" fn deliver(arg: *mut c_void) {
    // SAFETY: the box comes from `send` and is delivered once.
    let carrier = unsafe { Box::from_raw(arg.cast::<Carrier>()) };
    // SAFETY: the plugin's message is untouched since `send`, and now belongs to the receiver.
    let bay_msg { call, arg, .. } = unsafe { *carrier.carried };
    drop(carrier);
    if let Some(call) = call {
        let _entered = calls::enter(Call::Message);
        // SAFETY: these are the plugin's function and argument, called once.
        unsafe { call(arg) };
    }
}
