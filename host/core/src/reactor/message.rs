//! The message queue of a lightweight thread: many senders, one receiver, no memory of its own.
//!
//! Messages are linked through their own `link` field (Vyukov's intrusive queue): one atomic swap
//! to send, none to receive. A sender that was interrupted between its two steps hides what comes
//! after it for that moment; `is_empty` says "not empty" then, so nobody sleeps over it.
#![expect(unsafe_code, reason = "intrusive links are raw pointers")]

use super::sync::{AtomicBool, AtomicPtr, Message, Mutex, Ordering, empty_message, fence, link};
use std::cell::Cell;
use std::ptr;

/// # Invariants
/// `tail` is only used by the receiver. Every node between `tail` and `head` is alive: it belongs to
/// the queue from `push` until `pop` returns it.
pub(super) struct Queue {
    head: AtomicPtr<Message>,
    tail: Cell<*mut Message>,
    stub: Box<Message>,
    /// The receiver is gone.
    ended: AtomicBool,
    /// Who takes what was sent while the receiver went.
    late: Mutex,
}

// SAFETY: senders only use `head` and the `link` of nodes, atomically; `tail` is the receiver's by
// the contract of `pop`.
unsafe impl Sync for Queue {}
// SAFETY: no part of it is bound to an OS thread.
unsafe impl Send for Queue {}

impl Queue {
    pub(super) fn new() -> Self {
        let mut stub = Box::new(empty_message());
        let first: *mut Message = &raw mut *stub;
        Self {
            head: AtomicPtr::new(first),
            tail: Cell::new(first),
            stub,
            ended: AtomicBool::new(false),
            late: Mutex::new(),
        }
    }

    fn stub(&self) -> *mut Message {
        (&raw const *self.stub).cast_mut()
    }

    /// Adds a message. Any thread.
    ///
    /// # Safety
    /// `msg` is valid and the queue's until it is popped.
    pub(super) unsafe fn push(&self, msg: *mut Message) {
        // SAFETY: `msg` is ours by the contract.
        unsafe { link(msg) }.store(ptr::null_mut(), Ordering::Relaxed);
        let before = self.head.swap(msg, Ordering::AcqRel);
        // SAFETY: by the invariant, `before` stays in the queue until its link is set.
        unsafe { link(before) }.store(msg, Ordering::Release);
    }

    /// Takes the oldest message. Receiver only.
    pub(super) fn pop(&self) -> Option<*mut Message> {
        let mut tail = self.tail.get();
        // SAFETY: `tail` is alive by the invariant.
        let mut next = unsafe { link(tail) }.load(Ordering::Acquire);
        if tail == self.stub() {
            if next.is_null() {
                return None;
            }
            self.tail.set(next);
            tail = next;
            // SAFETY: the new tail is alive by the invariant.
            next = unsafe { link(tail) }.load(Ordering::Acquire);
        }
        if !next.is_null() {
            self.tail.set(next);
            return Some(tail);
        }
        if self.head.load(Ordering::Acquire) != tail {
            return None; // a sender is between its two steps
        }
        // SAFETY: the stub lives as long as the queue and is not in it now.
        unsafe { self.push(self.stub()) };
        // SAFETY: `tail` is alive by the invariant.
        let next = unsafe { link(tail) }.load(Ordering::Acquire);
        if next.is_null() {
            return None;
        }
        self.tail.set(next);
        Some(tail)
    }

    /// Whether nothing was sent. Receiver only.
    pub(super) fn is_empty(&self) -> bool {
        let tail = self.tail.get();
        tail == self.stub() && self.head.load(Ordering::Acquire) == tail
    }

    /// The receiver goes; from here on it uses `pop_late` as everybody else.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether the receiver went. A sender that has a full fence between its `push` and this either
    /// sees it, or its message is seen by the receiver's `pop_late`.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Takes the oldest message of a queue whose receiver went. Any thread.
    pub(super) fn pop_late(&self) -> Option<*mut Message> {
        let _receiver = self.late.lock();
        self.pop()
    }
}
