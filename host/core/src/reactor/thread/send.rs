//! Messages to threads, from any OS thread.

use super::table::{NOWHERE, Shared, app, find, ids, shared};
use super::{current_id, with_current};
use crate::Result;
use crate::reactor::by_core;
use drivebay_plugin_api::bay_msg;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Sends an intrusive message. Any OS thread. If the thread ends before it takes the message, the
/// message is called on the app thread.
///
/// # Errors
/// `ESRCH` when there is no such thread; the caller then still owns the message.
///
/// # Safety
/// `msg` is valid, its `call` is set, and nobody touches it until it is called.
pub unsafe fn send(thread: u64, msg: *mut bay_msg) -> Result<()> {
    let shared = find(thread)?;
    if shared.is_here() {
        // Its reactor is awake, because it runs the sender.
        // SAFETY: the caller guarantees this, and this is the OS thread of the receiver.
        unsafe { shared.queue.push_here(msg) };
        return Ok(());
    }
    // SAFETY: the caller guarantees this.
    unsafe { shared.queue.push(msg) };
    // The other sides have a full fence, too: a sleeper between its announcement and its check of
    // the queue, a moving thread between the store of its new core and that check, an ending thread
    // between `Queue::end` and that check.
    fence(Ordering::SeqCst);
    if let Some(reactor) = by_core(shared.core.load(Ordering::Acquire)) {
        reactor.wake_fenced();
    }
    if shared.queue.has_ended() {
        shared.pass_on_late();
    }
    Ok(())
}

#[repr(C)]
struct Boxed<F> {
    msg: bay_msg,
    call: F,
}

unsafe extern "C" fn call_boxed<F: FnOnce()>(arg: *mut c_void) {
    // SAFETY: `send_boxed` made this box, and nobody else has it.
    let boxed = unsafe { Box::from_raw(arg.cast::<Boxed<F>>()) };
    (boxed.call)();
}

/// Sends a closure to a thread, for the control path. The closure is dropped when the thread is
/// gone.
pub fn send_boxed<F: FnOnce() + Send + 'static>(thread: u64, call: F) {
    let msg = bay_msg {
        call: Some(call_boxed::<F>),
        arg: ptr::null_mut(),
        link: ptr::null_mut(),
        rsv: 0,
    };
    let boxed = Box::into_raw(Box::new(Boxed { msg, call }));
    // SAFETY: we own the box, and it is valid.
    unsafe { (*boxed).msg.arg = boxed.cast() };
    // SAFETY: the message is the first field of a box that lives until the message is called.
    if unsafe { send(thread, boxed.cast()) }.is_err() {
        // SAFETY: the message was not sent, so we still own the box.
        drop(unsafe { Box::from_raw(boxed) });
    }
}

/// Runs a closure on the app thread.
pub fn send_app<F: FnOnce() + Send + 'static>(call: F) {
    send_boxed(app(), call);
}

/// Runs `visit` on every thread, one after another. Then runs `done` with the results on the thread
/// of the caller (the app thread when the caller is outside of a thread).
pub fn for_each<T: Send + 'static>(
    visit: impl Fn() -> T + Send + Sync + 'static,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    let home = match current_id() {
        0 => app(),
        id => id,
    };
    step(ids(), Arc::new(visit), Vec::new(), home, done);
}

fn step<T: Send + 'static>(
    mut rest: Vec<u64>,
    visit: Arc<impl Fn() -> T + Send + Sync + 'static>,
    mut results: Vec<T>,
    home: u64,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    while let Some(id) = rest.pop() {
        if shared(id).is_none() {
            continue;
        }
        return send_boxed(id, move || {
            results.push(visit());
            step(rest, visit, results, home, done);
        });
    }
    send_boxed(home, move || done(results));
}

impl Shared {
    /// Whether the caller is a lightweight thread on the same reactor. A thread leaves this reactor
    /// only by a call that runs on this reactor. From then on its core is [`NOWHERE`].
    #[inline]
    fn is_here(&self) -> bool {
        let core = self.core.load(Ordering::Relaxed);
        core != NOWHERE
            && with_current(|thread| thread.shared.core.load(Ordering::Relaxed)) == Some(core)
    }

    /// The thread has ended: calls the messages that were sent in the meantime on the app thread.
    #[cold]
    pub(super) fn pass_on_late(&self) {
        while let Some(msg) = self.queue.pop_late() {
            // SAFETY: the receiver owns a popped message, and the sender filled it.
            let bay_msg { call, arg, .. } = unsafe { *msg };
            let arg = arg as usize;
            send_app(move || {
                if let Some(call) = call {
                    // SAFETY: the function and its argument belong together (contract of `send`).
                    unsafe { call(arg as *mut c_void) };
                }
            });
        }
    }
}
