//! Lightweight threads, messages and the clock.
//!
//! Values that are not `Send` may live on a lightweight thread. The host moves a thread to another core, with everything
//! that lives on it, only if all loaded plugins promise that this is safe: `unsafe(threads_move)` in
//! [`plugin!`](crate::plugin).
#![expect(unsafe_code, reason = "calls the host's thread interface; messages change owners")]

use crate::entry::enter;
use crate::error::{Error, Result, check};
use crate::host::host;
use drivebay_plugin_api::{bay_msg, bay_msg_fn, bay_str};
use std::ffi::c_void;

/// A lightweight thread of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thread(u64);

/// Returns the lightweight thread that runs this code, or `None` outside of one.
#[must_use]
pub fn current() -> Option<Thread> {
    let host = host();
    // SAFETY: the host's function with its own table.
    let id = unsafe { (host.thread.current)(host.raw) };
    (id != 0).then_some(Thread(id))
}

/// Returns the thread on which the control plane runs.
#[must_use]
pub fn app() -> Thread {
    let host = host();
    // SAFETY: the host's function with its own table.
    Thread(unsafe { (host.thread.app_thread)(host.raw) })
}

/// The cores that have reactors.
pub fn cores() -> impl Iterator<Item = u32> {
    let mut last = -1;
    std::iter::from_fn(move || {
        let host = host();
        // SAFETY: the host's function with its own table.
        last = unsafe { (host.thread.next_core)(host.raw, last) };
        u32::try_from(last).ok()
    })
}

/// Creates a lightweight thread. `cpumask` as `0x3` or `[0,1]`; empty = any core.
///
/// # Errors
/// The errors of the host, such as for a mask without a reactor.
pub fn create(name: &str, cpumask: &str) -> Result<Thread> {
    let host = host();
    let mut id = 0;
    // SAFETY: the texts and the result outlive the call.
    let status = unsafe {
        (host.thread.create)(host.raw, bay_str::new(name), bay_str::new(cpumask), &raw mut id)
    };
    check(status, format_args!("thread {name}"))?;
    Ok(Thread(id))
}

/// Returns the host's clock in nanoseconds. A reactor reads the clock once a round.
#[must_use]
pub fn now_ns() -> u64 {
    let host = host();
    // SAFETY: the host's function with its own table.
    unsafe { (host.thread.now_ns)(host.raw) }
}

impl Thread {
    /// The host's handle.
    #[must_use]
    pub fn id(self) -> u64 {
        self.0
    }

    /// Whether this code runs on the thread.
    #[must_use]
    pub fn is_current(self) -> bool {
        current() == Some(self)
    }

    /// Moves the thread to a core of `cpumask`. `[any thread]`
    ///
    /// # Errors
    /// `EINVAL` for a mask without a reactor, `EBUSY` when a loaded plugin does not promise `unsafe(threads_move)`.
    pub fn set_cpumask(self, cpumask: &str) -> Result<()> {
        let host = host();
        // SAFETY: the text outlives the call.
        let status = unsafe { (host.thread.set_cpumask)(host.raw, self.0, bay_str::new(cpumask)) };
        check(status, "cpumask")
    }

    /// Ends the thread once it has no poller and no channel left. It must be the current thread. Its tasks are dropped at once.
    ///
    /// # Errors
    /// The errors of the host.
    pub fn exit(self) -> Result<()> {
        if self.is_current() {
            crate::runtime::task::end_here();
        }
        let host = host();
        // SAFETY: the host's function with its own table.
        check(unsafe { (host.thread.exit)(host.raw, self.0) }, "thread exit")
    }

    /// Runs `call` on the thread. Allocates memory: use it on the control path; [`Message`] is for the data path.
    ///
    /// # Errors
    /// When the thread has ended; `call` is then dropped.
    pub fn send<F: FnOnce() + Send + 'static>(self, call: F) -> Result<()> {
        // SAFETY: `call` is `Send`, and the current thread gives it away.
        unsafe { self.give(call, run::<F>) }.map_err(|(error, refused)| {
            drop(refused);
            error
        })
    }

    /// As [`send`](Self::send), for values that go back to their own thread.
    ///
    /// # Safety
    /// The contents of `call` are `Send`, or they belong to the target thread and the current thread does not touch them
    /// again. When the target thread has ended, this function leaks `call` instead of dropping it here.
    pub(crate) unsafe fn send_any<F: FnOnce() + 'static>(self, call: F) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.give(call, run::<F>) }.map_err(|(error, refused)| {
            let _ = Box::into_raw(refused);
            error
        })
    }

    /// As [`send_any`](Self::send_any). `call` also runs when the library is poisoned, so it must be the SDK's own code and
    /// must not panic.
    ///
    /// # Safety
    /// As [`send_any`](Self::send_any).
    pub(crate) unsafe fn send_even_poisoned<F: FnOnce() + 'static>(self, call: F) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.give(call, run_even_poisoned::<F>) }.map_err(|(error, refused)| {
            let _ = Box::into_raw(refused);
            error
        })
    }

    /// Sends a call to the thread, where `run` gets it. Returns the call when the host refuses it.
    ///
    /// # Safety
    /// As [`send_any`](Self::send_any). `run` takes a box of a `Call<F>`.
    unsafe fn give<F: FnOnce() + 'static>(
        self,
        call: F,
        run: bay_msg_fn,
    ) -> Result<(), (Error, Box<Call<F>>)> {
        let message = Box::into_raw(Box::new(Call {
            msg: bay_msg {
                call: Some(run),
                arg: std::ptr::null_mut(),
                link: std::ptr::null_mut(),
                rsv: 0,
            },
            call,
        }));
        // SAFETY: `message` is a live allocation of this function; `msg` is its first field.
        unsafe { (*message).msg.arg = message.cast() };
        let host = host();
        // SAFETY: the host owns the message until it calls `run`.
        let status = unsafe { (host.thread.send)(host.raw, self.0, message.cast()) };
        check(status, "message").map_err(|error| {
            // SAFETY: the host refused the message, so this function still owns it.
            (error, unsafe { Box::from_raw(message) })
        })
    }
}

#[repr(C)]
struct Call<F> {
    msg: bay_msg,
    call: F,
}

unsafe extern "C" fn run<F: FnOnce()>(arg: *mut c_void) {
    // SAFETY: `arg` is the box from `give`; the message is received once.
    let call = unsafe { Box::from_raw(arg.cast::<Call<F>>()) };
    enter((), || (call.call)());
}

unsafe extern "C" fn run_even_poisoned<F: FnOnce()>(arg: *mut c_void) {
    // SAFETY: `arg` is the box from `give`; the message is received once.
    let call = unsafe { Box::from_raw(arg.cast::<Call<F>>()) };
    (call.call)();
}

/// A message whose memory is allocated once and used again and again: for the data path.
///
/// The owner of the message owns the value in it. Sending gives both away.
#[derive(Debug)]
pub struct Message<T: Send + 'static>(Box<Envelope<T>>);

#[derive(Debug)]
#[repr(C)]
struct Envelope<T: Send + 'static> {
    msg: bay_msg,
    receive: Option<fn(Message<T>)>,
    value: T,
}

// SAFETY: only the host uses the pointers of `msg` while it is in flight; the value is `Send`.
unsafe impl<T: Send> Send for Message<T> {}

impl<T: Send> Message<T> {
    /// Allocates a message that contains `value`.
    pub fn new(value: T) -> Self {
        let msg =
            bay_msg { call: None, arg: std::ptr::null_mut(), link: std::ptr::null_mut(), rsv: 0 };
        Self(Box::new(Envelope { msg, receive: None, value }))
    }

    /// Returns the value and frees the message.
    #[must_use]
    pub fn into_value(self) -> T {
        self.0.value
    }

    /// Sends the message; `receive` gets it on `thread`. This cannot fail while the thread exists. If the thread has
    /// ended, the message is dropped.
    pub fn send(mut self, thread: Thread, receive: fn(Self)) {
        self.0.receive = Some(receive);
        self.0.msg.call = Some(deliver::<T>);
        let envelope = Box::into_raw(self.0);
        // SAFETY: `envelope` is a live allocation of this function; `msg` is its first field.
        unsafe { (*envelope).msg.arg = envelope.cast() };
        let host = host();
        // SAFETY: the host owns the envelope until it calls `deliver`.
        let status = unsafe { (host.thread.send)(host.raw, thread.0, envelope.cast()) };
        if status != 0 {
            // SAFETY: the host refused the message, so this function still owns it.
            drop(unsafe { Box::from_raw(envelope) });
        }
    }
}

impl<T: Send> std::ops::Deref for Message<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Send> std::ops::DerefMut for Message<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.value
    }
}

unsafe extern "C" fn deliver<T: Send + 'static>(arg: *mut c_void) {
    // SAFETY: `arg` is the box that `send` gave away; the message is received once.
    let envelope = unsafe { Box::from_raw(arg.cast::<Envelope<T>>()) };
    if let Some(receive) = envelope.receive {
        enter((), || receive(Message(envelope)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    struct Ping {
        round: u32,
        back: Sender<Message<Ping>>,
    }

    #[test]
    fn a_message_comes_back_with_its_value_and_is_used_again() {
        let host = FakeHost::new();
        let (back, received) = channel();
        let mut message = Message::new(Ping { round: 0, back });
        for round in 1..=3 {
            message.round = round;
            message.send(app(), |message| {
                let back = message.back.clone();
                assert!(back.send(message).is_ok());
            });
            host.run();
            message = received.try_recv().ok().unwrap();
            assert_eq!(message.round, round);
        }
    }

    #[test]
    fn what_is_sent_to_a_thread_that_has_ended_is_dropped() {
        let host = FakeHost::new();
        let gone = create("gone", "").unwrap();
        gone.send(move || gone.exit().unwrap()).unwrap();
        host.run();
        let held = Arc::new(());
        let lent = Arc::clone(&held);
        assert!(gone.send(move || drop(lent)).is_err());
        Message::new(Arc::clone(&held)).send(gone, drop);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_sent_closure_runs_once_on_the_thread() {
        let host = FakeHost::new();
        let (sender, received) = channel();
        app().send(move || sender.send(current()).unwrap()).unwrap();
        assert!(received.try_recv().is_err());
        host.run();
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [Some(app())]);
    }
}
