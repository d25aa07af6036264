//! The message queue, the sleep and the end of a thread under loom: the host's own `message.rs` and
//! `announce.rs`, compiled over loom's atomics, in every interleaving that the C11 model allows.
#![expect(unsafe_code, reason = "messages are raw pointers")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    clippy::missing_panics_doc,
    reason = "a model; the files under test are the host's"
)]

/// Replaces the host's `reactor/sync.rs`.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

    pub(super) struct Message {
        pub(super) link: AtomicPtr<Message>,
        pub(super) value: usize,
    }

    /// # Safety
    /// `msg` is alive for `'a`.
    pub(super) unsafe fn link<'a>(msg: *mut Message) -> &'a AtomicPtr<Message> {
        // SAFETY: the message is alive (contract).
        unsafe { &(*msg).link }
    }

    pub(super) struct Mutex(loom::sync::Mutex<()>);

    impl Mutex {
        pub(super) fn new() -> Self {
            Self(loom::sync::Mutex::new(()))
        }

        pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, ()> {
            self.0.lock().unwrap()
        }
    }
}

#[path = "../../../host/core/src/reactor/announce.rs"]
mod announce;
#[path = "../../../host/core/src/reactor/line.rs"]
mod line;
#[path = "../../../host/core/src/reactor/message.rs"]
mod message;

use announce::Announcement;
use loom::sync::atomic::AtomicPtr;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use message::Queue;
use std::ptr;
use sync::{Message, Ordering, fence};

/// Tries all orders with a limited number of switches away from a thread that could continue. Two switches
/// are enough to show the known kinds of mistakes.
fn every_order(model: impl Fn() + Send + Sync + 'static) {
    let mut all = loom::model::Builder::new();
    all.preemption_bound = Some(if std::env::var_os("DRIVEBAY_SOAK").is_some() { 4 } else { 2 });
    all.check(model);
}

/// Allocates a message for a queue. [`value`] frees it.
fn allocate(value: usize) -> *mut Message {
    Box::into_raw(Box::new(Message { link: AtomicPtr::new(ptr::null_mut()), value }))
}

fn send(queue: &Queue, value: usize) {
    // SAFETY: the message is new, and only the queue gets its pointer.
    unsafe { queue.push(allocate(value)) };
}

fn send_here(queue: &Queue, value: usize) {
    // SAFETY: the message is new, and only the queue gets its pointer.
    unsafe { queue.push_here(allocate(value)) };
}

/// Frees a message that a queue has returned, and returns its value.
fn value(message: *mut Message) -> usize {
    // SAFETY: the message is the box of `allocate`. The queue returns each message once, so no other call
    // frees it; otherwise the model has found the fault that it looks for.
    unsafe { Box::from_raw(message) }.value
}

pub fn the_queue_loses_nothing_and_keeps_each_senders_order() {
    every_order(|| {
        let queue = Arc::new(Queue::new());
        let senders = [[1, 2], [11, 12]].map(|values| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || values.into_iter().for_each(|value| send(&queue, value)))
        });
        let mut got: Vec<usize> = std::iter::from_fn(|| queue.pop().map(value)).collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        got.extend(std::iter::from_fn(|| queue.pop().map(value)));
        let of = |from: usize| got.iter().copied().filter(move |&value| value / 10 == from);
        assert_eq!(of(0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(of(1).collect::<Vec<_>>(), [11, 12]);
        assert!(queue.is_empty());
    });
}

/// Like `thread::send` on the receiver's reactor. A sender may move to that reactor.
pub fn what_is_sent_here_comes_behind_what_its_sender_sent_from_elsewhere() {
    every_order(|| {
        let queue = Arc::new(Queue::new());
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || [11, 12].into_iter().for_each(|value| send(&queue, value)))
        };
        let before = Arc::clone(&queue);
        thread::spawn(move || send(&before, 1)).join().unwrap();
        send_here(&queue, 2);
        let mut got: Vec<usize> = queue.pop().map(value).into_iter().collect();
        send_here(&queue, 3);
        other.join().unwrap();
        got.extend(std::iter::from_fn(|| queue.pop().map(value)));
        let of = |from: usize| got.iter().copied().filter(move |&value| value / 10 == from);
        assert_eq!(of(0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(of(1).collect::<Vec<_>>(), [11, 12]);
    });
}

/// An eventfd. A signal before the wait ends the wait.
#[derive(Default)]
struct Event {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Event {
    fn signal(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.changed.wait(count).unwrap();
        }
        *count = 0;
    }
}

/// Like `thread::send`: it pushes the message, does a full fence, and checks for a sleeper.
fn send_and_wake(queue: &Queue, asleep: &Announcement, event: &Event, value: usize) {
    send(queue, value);
    fence(Ordering::SeqCst);
    if asleep.is_made() {
        event.signal();
    }
}

/// A lost wake-up would be a deadlock, which loom finds.
pub fn no_sleep_is_missed_by_a_sender() {
    every_order(|| {
        let shared = Arc::new((Queue::new(), Announcement::new(), Event::default()));
        let senders = [1, 2].map(|value| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || send_and_wake(&shared.0, &shared.1, &shared.2, value))
        });
        let (queue, asleep, event) = &*shared;
        let mut got = 0;
        while got < 2 {
            if queue.pop().map(value).is_some() {
                got += 1;
                continue;
            }
            asleep.make();
            if queue.is_empty() {
                event.wait();
            }
            asleep.revoke();
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// Like `thread::send` during the end of a thread: whichever of the two comes last takes the remaining
/// messages.
pub fn a_message_that_meets_the_end_of_its_thread_is_taken_once() {
    every_order(|| {
        let queue = Arc::new(Queue::new());
        let senders = [1, 2].map(|value| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                send(&queue, value);
                fence(Ordering::SeqCst);
                let mut taken = Vec::new();
                if queue.has_ended() {
                    taken.extend(std::iter::from_fn(|| queue.pop_late().map(self::value)));
                }
                taken
            })
        });
        queue.end();
        let mut taken: Vec<usize> = std::iter::from_fn(|| queue.pop_late().map(value)).collect();
        senders.into_iter().for_each(|sender| taken.extend(sender.join().unwrap()));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}
