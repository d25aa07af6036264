//! The message queue of a lightweight thread: many senders, one receiver, no memory of its own.
//!
//! Messages are linked through their own `link` field. Other OS threads put theirs on a stack: one atomic
//! operation to send. The receiver takes the whole stack with another one and turns it around into its own
//! list, from which it takes messages, and to which its own OS thread adds them, without any.
#![expect(unsafe_code, reason = "intrusive links are raw pointers")]

use super::line::Line;
use super::sync::{AtomicBool, AtomicPtr, Message, Mutex, Ordering, fence, link};
use std::cell::Cell;
use std::ptr;

/// # Invariants
/// `list` is only used by the receiver. Every message that can be reached from `sent` or `list` is alive:
/// it belongs to the queue from when it was added until `pop` returns it.
pub(super) struct Queue {
    /// What came from other OS threads, the newest first.
    sent: Line<AtomicPtr<Message>>,
    /// What the receiver has.
    list: Line<List>,
    /// The receiver is gone.
    ended: Line<AtomicBool>,
    /// Who takes what was sent while the receiver went.
    late: Mutex,
}

/// The oldest and the newest; this one counts only while the first is not null.
struct List {
    first: Cell<*mut Message>,
    last: Cell<*mut Message>,
}

// SAFETY: senders only use `sent` and the `link` of their message; the list is the receiver's by the
// contracts of `push_here` and `pop`.
unsafe impl Sync for Queue {}
// SAFETY: no part of it is bound to an OS thread.
unsafe impl Send for Queue {}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            sent: Line(AtomicPtr::new(ptr::null_mut())),
            list: Line(List {
                first: Cell::new(ptr::null_mut()),
                last: Cell::new(ptr::null_mut()),
            }),
            ended: Line(AtomicBool::new(false)),
            late: Mutex::new(),
        }
    }

    /// Adds a message. Any OS thread.
    ///
    /// # Safety
    /// `msg` is valid and the queue's until it is popped.
    pub(super) unsafe fn push(&self, msg: *mut Message) {
        // A guess instead of a look: the line is fetched once, for writing.
        let mut before = ptr::null_mut();
        loop {
            // SAFETY: `msg` is ours by the contract.
            unsafe { link(msg) }.store(before, Ordering::Relaxed);
            let put = self.sent.0.compare_exchange_weak(
                before,
                msg,
                Ordering::Release,
                Ordering::Relaxed,
            );
            match put {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// Adds a message behind all that this OS thread can know of. The receiver's OS thread only.
    ///
    /// # Safety
    /// As [`Self::push`].
    pub(super) unsafe fn push_here(&self, msg: *mut Message) {
        // The sender may have been elsewhere before: what it sent from there comes first.
        self.take_over();
        // SAFETY: `msg` is ours by the contract.
        unsafe { link(msg) }.store(ptr::null_mut(), Ordering::Relaxed);
        self.append(msg, msg);
    }

    /// Takes the oldest message. Receiver only.
    pub(super) fn pop(&self) -> Option<*mut Message> {
        if self.list.0.first.get().is_null() {
            self.take_over();
        }
        let msg = self.list.0.first.get();
        if msg.is_null() {
            return None;
        }
        // SAFETY: `msg` is alive by the invariant.
        self.list.0.first.set(unsafe { link(msg) }.load(Ordering::Relaxed));
        Some(msg)
    }

    /// Appends what came from other OS threads, turned around, to the list.
    fn take_over(&self) {
        if self.sent.0.load(Ordering::Relaxed).is_null() {
            return;
        }
        let last = self.sent.0.swap(ptr::null_mut(), Ordering::Acquire);
        let (mut first, mut rest) = (ptr::null_mut(), last);
        while !rest.is_null() {
            // SAFETY: `rest` is alive by the invariant.
            let before = unsafe { link(rest) };
            let next = before.load(Ordering::Relaxed);
            before.store(first, Ordering::Relaxed);
            first = std::mem::replace(&mut rest, next);
        }
        self.append(first, last);
    }

    /// Appends messages that are linked from `first` to `last`, whose link is null.
    fn append(&self, first: *mut Message, last: *mut Message) {
        let end = self.list.0.last.replace(last);
        if self.list.0.first.get().is_null() {
            self.list.0.first.set(first);
        } else {
            // SAFETY: `end` is the last of the list, so it is alive by the invariant.
            unsafe { link(end) }.store(first, Ordering::Relaxed);
        }
    }

    /// Whether nothing was sent. Receiver only.
    pub(super) fn is_empty(&self) -> bool {
        self.list.0.first.get().is_null() && self.sent.0.load(Ordering::Relaxed).is_null()
    }

    /// The receiver goes; from here on it uses `pop_late` as everybody else.
    pub(super) fn end(&self) {
        self.ended.0.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether the receiver went. A sender that has a full fence between its `push` and this either
    /// sees it, or its message is seen by the receiver's `pop_late`.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.0.load(Ordering::Acquire)
    }

    /// Takes the oldest message of a queue whose receiver went. Any thread.
    pub(super) fn pop_late(&self) -> Option<*mut Message> {
        let _receiver = self.late.lock();
        self.pop()
    }
}
