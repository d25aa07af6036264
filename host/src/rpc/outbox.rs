//! Carries answers from any thread to the RPC thread.

use nix::sys::eventfd::EventFd;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The encoded answer of one call. `text` is `None` for a notification.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) connection: u64,
    pub(crate) exchange: u64,
    pub(crate) index: usize,
    pub(crate) text: Option<String>,
}

/// The queue of answers to the RPC thread. It has at most one answer for each outstanding call.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(super) answers: Sender<Answer>,
    pub(super) wake: Arc<EventFd>,
}

impl Outbox {
    pub(crate) fn send(&self, answer: Answer) {
        // Fails only when the server has stopped; then nobody waits for the answer.
        if self.answers.send(answer).is_ok() {
            wake_up(&self.wake);
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

pub(super) fn wake_up(wake: &EventFd) {
    // EAGAIN means that 2^64 - 2 wake-ups are pending, so the thread will wake.
    let _ = wake.write(1);
}
