//! The message queue of a lightweight thread: many senders, one receiver, and no memory of its own.
//!
//! Messages are linked through their own `link` field. Other OS threads push messages on a stack,
//! with one atomic operation for each. The receiver takes the whole stack with one atomic operation
//! and reverses it into its own list. It takes messages from this list, and its own OS thread adds
//! messages to it, without atomic operations.
#![expect(unsafe_code, reason = "intrusive links are raw pointers")]

use super::line::Line;
use super::sync::{AtomicBool, AtomicPtr, Message, Mutex, Ordering, fence, link};
use std::cell::Cell;
use std::ptr;

/// # Invariants
/// Only the receiver uses `list`. Every message that can be reached from `sent` or `list` is alive:
/// it belongs to the queue from the push until `pop` returns it.
pub(super) struct Queue {
    /// Messages from other OS threads, the newest first.
    sent: Line<AtomicPtr<Message>>,
    /// Messages that the receiver has taken over.
    list: Line<List>,
    /// Whether the receiver has ended.
    ended: Line<AtomicBool>,
    /// Held by the thread that takes messages that were sent while the receiver ended.
    late: Mutex,
}

/// The oldest and the newest message; `last` only counts while `first` is not null.
struct List {
    first: Cell<*mut Message>,
    last: Cell<*mut Message>,
}

// SAFETY: senders only use `sent` and the `link` of their message. Only the receiver uses the list,
// by the contracts of `push_here` and `pop`.
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
    /// `msg` is valid and belongs to the queue until it is popped.
    pub(super) unsafe fn push(&self, msg: *mut Message) {
        // Starts with a guess instead of a load, so that the cache line is fetched once, for
        // writing.
        let mut before = ptr::null_mut();
        loop {
            // SAFETY: the queue owns `msg` (contract).
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

    /// Adds a message after all messages that this OS thread can have sent before. Only on the
    /// receiver's OS thread.
    ///
    /// # Safety
    /// As for [`Self::push`].
    pub(super) unsafe fn push_here(&self, msg: *mut Message) {
        // The sender may have run on another OS thread before. The messages that it sent from there
        // come first.
        self.take_over();
        // SAFETY: the queue owns `msg` (contract).
        unsafe { link(msg) }.store(ptr::null_mut(), Ordering::Relaxed);
        self.append(msg, msg);
    }

    /// Removes and returns the oldest message. Receiver only.
    pub(super) fn pop(&self) -> Option<*mut Message> {
        if self.list.0.first.get().is_null() {
            self.take_over();
        }
        let msg = self.list.0.first.get();
        if msg.is_null() {
            return None;
        }
        // SAFETY: `msg` is alive (invariant).
        self.list.0.first.set(unsafe { link(msg) }.load(Ordering::Relaxed));
        Some(msg)
    }

    /// Reverses the messages from other OS threads and appends them to the list.
    fn take_over(&self) {
        if self.sent.0.load(Ordering::Relaxed).is_null() {
            return;
        }
        let last = self.sent.0.swap(ptr::null_mut(), Ordering::Acquire);
        let (mut first, mut rest) = (ptr::null_mut(), last);
        while !rest.is_null() {
            // SAFETY: `rest` is alive (invariant).
            let before = unsafe { link(rest) };
            let next = before.load(Ordering::Relaxed);
            before.store(first, Ordering::Relaxed);
            first = std::mem::replace(&mut rest, next);
        }
        self.append(first, last);
    }

    /// Appends messages that are linked from `first` to `last`. The link of `last` must be null.
    fn append(&self, first: *mut Message, last: *mut Message) {
        let end = self.list.0.last.replace(last);
        if self.list.0.first.get().is_null() {
            self.list.0.first.set(first);
        } else {
            // SAFETY: `end` is the last message of the list, so it is alive (invariant).
            unsafe { link(end) }.store(first, Ordering::Relaxed);
        }
    }

    /// Whether there is no message. Receiver only.
    pub(super) fn is_empty(&self) -> bool {
        self.list.0.first.get().is_null() && self.sent.0.load(Ordering::Relaxed).is_null()
    }

    /// Ends the receiver. From here on it uses `pop_late`, as all threads do.
    pub(super) fn end(&self) {
        self.ended.0.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether the receiver has ended. The sender must have a full fence between its `push` and
    /// this call. Then either the sender sees the end, or the receiver's `pop_late` sees the
    /// message.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.0.load(Ordering::Acquire)
    }

    /// Removes and returns the oldest message of a queue whose receiver has ended. Any thread.
    pub(super) fn pop_late(&self) -> Option<*mut Message> {
        let _receiver = self.late.lock();
        self.pop()
    }
}
