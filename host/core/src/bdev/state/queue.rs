//! A queue of I/O.

use super::io::Io;
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// A first-in, first-out queue, linked through the slots.
#[derive(Default)]
pub(in crate::bdev) struct Queue {
    head: Cell<Option<Io>>,
    tail: Cell<Option<Io>>,
}

impl Queue {
    pub(in crate::bdev) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    pub(in crate::bdev) fn front(&self) -> Option<Io> {
        self.head.get()
    }

    pub(in crate::bdev) fn push_back(&self, io: Io) {
        io.next.set(ptr::null_mut());
        match self.tail.replace(Some(io)) {
            Some(last) => last.next.set(io.0.as_ptr()),
            None => self.head.set(Some(io)),
        }
    }

    pub(in crate::bdev) fn push_front(&self, io: Io) {
        let head = self.head.replace(Some(io));
        io.next.set(head.map_or(ptr::null_mut(), |head| head.0.as_ptr()));
        if head.is_none() {
            self.tail.set(Some(io));
        }
    }

    pub(in crate::bdev) fn pop_front(&self) -> Option<Io> {
        let io = self.head.get()?;
        let next = NonNull::new(io.next.get()).map(Io);
        self.head.set(next);
        if next.is_none() {
            self.tail.set(None);
        }
        Some(io)
    }

    /// Moves everything into a new queue and returns it.
    pub(in crate::bdev) fn take(&self) -> Self {
        Self { head: Cell::new(self.head.take()), tail: Cell::new(self.tail.take()) }
    }

    /// Removes the first I/O to which an abort of `id` applies.
    pub(in crate::bdev) fn remove(&self, id: u64) -> Option<Io> {
        let mut found = None;
        let rest = Self::default();
        while let Some(io) = self.pop_front() {
            if found.is_none() && io.is_named(id) {
                found = Some(io);
            } else {
                rest.push_back(io);
            }
        }
        self.head.set(rest.head.get());
        self.tail.set(rest.tail.get());
        found
    }
}
