//! These tests are not in `message.rs`, because `tests/loom` compiles that file with other atomics.
#![expect(unsafe_code, reason = "messages are raw pointers")]

use super::message::Queue;
use drivebay_plugin_api::bay_msg;
use std::ptr;
use std::sync::Arc;

fn message(value: usize) -> *mut bay_msg {
    Box::into_raw(Box::new(bay_msg {
        call: None,
        arg: value as *mut _,
        link: ptr::null_mut(),
        rsv: 0,
    }))
}

fn take(queue: &Queue) -> Option<usize> {
    queue.pop().map(|msg| {
        // SAFETY: a popped message belongs to us, and `message` boxed it.
        let msg = unsafe { Box::from_raw(msg) };
        msg.arg as usize
    })
}

#[test]
fn messages_come_out_in_the_order_they_went_in() {
    let queue = Queue::new();
    assert!(queue.is_empty());
    for round in 0..3 {
        for value in 1..=5 {
            // SAFETY: a new box, which the queue owns from here on.
            unsafe { queue.push(message(value + round)) };
        }
        assert!(!queue.is_empty());
        let got: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
        assert_eq!(got, (1 + round..=5 + round).collect::<Vec<_>>());
    }
    assert!(queue.is_empty());
}

#[test]
fn what_is_sent_here_comes_behind_what_was_there() {
    let queue = Queue::new();
    for value in [1, 2, 3, 4, 5, 6] {
        if value % 3 == 0 {
            // SAFETY: a new box, which the queue owns from here on; no other thread uses the queue.
            unsafe { queue.push_here(message(value)) };
        } else {
            // SAFETY: a new box, which the queue owns from here on.
            unsafe { queue.push(message(value)) };
        }
    }
    assert!(!queue.is_empty());
    let got: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
    assert_eq!(got, [1, 2, 3, 4, 5, 6]);
    assert!(queue.is_empty());
}

#[test]
fn nothing_is_lost_or_reordered_between_many_senders() {
    const EACH: usize = if cfg!(miri) { 50 } else { 20_000 };
    let queue = Arc::new(Queue::new());
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                for n in 0..EACH {
                    // SAFETY: a new box, which the queue owns from here on.
                    unsafe { queue.push(message((sender << 32) | n)) };
                }
            })
        })
        .collect();
    let mut next = [0; 4];
    let mut total = 0;
    while total < 4 * EACH {
        let Some(value) = take(&queue) else {
            std::hint::spin_loop();
            continue;
        };
        let (sender, n) = (value >> 32, value & 0xffff_ffff);
        assert_eq!(next[sender], n);
        next[sender] += 1;
        total += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert!(queue.is_empty());
}
