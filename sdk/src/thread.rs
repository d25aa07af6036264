//! Lightweight threads, messages and the clock.
//!
//! A lightweight thread may move between reactors, and everything that lives on it moves along.
//! So what is not `Send` may stay on one, but must not be kept in `thread_local!`s.
#![expect(unsafe_code, reason = "calls the host's thread interface; messages change owners")]

use crate::entry::enter;
use crate::error::{Error, Result, check};
use crate::host::host;
use drivebay_plugin_api::{bay_msg, bay_str};
use std::ffi::c_void;

/// A lightweight thread of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thread(u64);

/// The lightweight thread that runs this code, if any.
#[must_use]
pub fn current() -> Option<Thread> {
    let host = host();
    // SAFETY: the host's function with its own table.
    let id = unsafe { (host.thread.current)(host.raw) };
    (id != 0).then_some(Thread(id))
}

/// The thread on which the control plane runs.
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

/// Makes a thread; `cpumask` as `0x3` or `[0,1]`, empty = any core.
///
/// # Errors
/// What the host refuses, such as a mask without a reactor.
pub fn create(name: &str, cpumask: &str) -> Result<Thread> {
    let host = host();
    let mut id = 0;
    // SAFETY: texts and result live through the call.
    let status = unsafe {
        (host.thread.create)(host.raw, bay_str::new(name), bay_str::new(cpumask), &raw mut id)
    };
    check(status, format_args!("thread {name}"))?;
    Ok(Thread(id))
}

/// The host's clock in nanoseconds, cached once a round on a reactor.
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

    /// Whether this code runs on it.
    #[must_use]
    pub fn is_current(self) -> bool {
        current() == Some(self)
    }

    /// Moves the thread to a core of `cpumask`.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn set_cpumask(self, cpumask: &str) -> Result<()> {
        let host = host();
        // SAFETY: the text lives through the call.
        let status = unsafe { (host.thread.set_cpumask)(host.raw, self.0, bay_str::new(cpumask)) };
        check(status, "cpumask")
    }

    /// Ends the thread, which must be the current one, once its pollers and channels are gone. Its tasks are dropped at once.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn exit(self) -> Result<()> {
        if self.is_current() {
            crate::runtime::task::end_here();
        }
        let host = host();
        // SAFETY: the host's function with its own table.
        check(unsafe { (host.thread.exit)(host.raw, self.0) }, "thread exit")
    }

    /// Runs `call` on the thread. Allocates: for the control path; see [`Message`] for the other.
    ///
    /// # Errors
    /// When there is no such thread any more; `call` is dropped then.
    pub fn send(self, call: impl FnOnce() + Send + 'static) -> Result<()> {
        // SAFETY: `call` may be sent, and the current thread gives it away.
        unsafe { self.give(call) }.map_err(|(error, refused)| {
            drop(refused);
            error
        })
    }

    /// As [`send`](Self::send), for what goes back to where it belongs.
    ///
    /// # Safety
    /// What `call` holds is `Send`, or belongs to the thread and is not touched here any more. When
    /// there is no such thread, `call` is leaked rather than dropped here.
    pub(crate) unsafe fn send_any<F: FnOnce() + 'static>(self, call: F) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.give(call) }.map_err(|(error, refused)| {
            let _ = Box::into_raw(refused);
            error
        })
    }

    /// Gives a call to the thread; what the host refuses comes back.
    ///
    /// # Safety
    /// As [`send_any`](Self::send_any).
    unsafe fn give<F: FnOnce() + 'static>(self, call: F) -> Result<(), (Error, Box<Call<F>>)> {
        let message = Box::into_raw(Box::new(Call {
            msg: bay_msg {
                call: Some(run::<F>),
                arg: std::ptr::null_mut(),
                link: std::ptr::null_mut(),
                rsv: 0,
            },
            call,
        }));
        // SAFETY: `message` is a live allocation of ours; `msg` is its first field.
        unsafe { (*message).msg.arg = message.cast() };
        let host = host();
        // SAFETY: the message is the host's until `run`.
        let status = unsafe { (host.thread.send)(host.raw, self.0, message.cast()) };
        check(status, "message").map_err(|error| {
            // SAFETY: a refused message is still ours.
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
    // SAFETY: `arg` is the box that `send_any` made, received once.
    let call = unsafe { Box::from_raw(arg.cast::<Call<F>>()) };
    enter((), || (call.call)());
}

/// A message whose memory is made once and used over and over: for the data path.
///
/// Who holds the message owns the value in it; sending gives both away.
#[derive(Debug)]
pub struct Message<T: Send + 'static>(Box<Envelope<T>>);

#[derive(Debug)]
#[repr(C)]
struct Envelope<T: Send + 'static> {
    msg: bay_msg,
    receive: Option<fn(Message<T>)>,
    value: T,
}

// SAFETY: the pointers of `msg` are used by the host alone while it is in flight; the value is `Send`.
unsafe impl<T: Send> Send for Message<T> {}

impl<T: Send> Message<T> {
    /// A message around `value`.
    pub fn new(value: T) -> Self {
        let msg =
            bay_msg { call: None, arg: std::ptr::null_mut(), link: std::ptr::null_mut(), rsv: 0 };
        Self(Box::new(Envelope { msg, receive: None, value }))
    }

    /// Takes the value out.
    #[must_use]
    pub fn into_value(self) -> T {
        self.0.value
    }

    /// Sends the message, which `receive` gets on the thread. Cannot fail while the thread lives;
    /// with the thread gone the message is dropped.
    pub fn send(mut self, thread: Thread, receive: fn(Self)) {
        self.0.receive = Some(receive);
        self.0.msg.call = Some(deliver::<T>);
        let envelope = Box::into_raw(self.0);
        // SAFETY: a live allocation of ours; `msg` is its first field.
        unsafe { (*envelope).msg.arg = envelope.cast() };
        let host = host();
        // SAFETY: the envelope is the host's until `deliver`.
        let status = unsafe { (host.thread.send)(host.raw, thread.0, envelope.cast()) };
        if status != 0 {
            // SAFETY: a refused message is still ours.
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
    // SAFETY: `arg` is the box that `send` gave away, received once.
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
