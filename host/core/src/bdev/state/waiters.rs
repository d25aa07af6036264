//! Clients that wait for a free I/O: a first-in, first-out queue, linked through the clients' own
//! memory.

use drivebay_plugin_api::bay_wait;
use std::cell::Cell;
use std::ptr;

/// # Invariants
/// Every waiter that can be reached from `head` through `link` was queued by [`push`](Self::push).
/// The caller of `push` keeps it valid and untouched until it is called or removed. `tail` is the
/// last waiter; it only counts while `head` is not null.
pub(in crate::bdev) struct Waiters {
    head: Cell<*mut bay_wait>,
    tail: Cell<*mut bay_wait>,
}

impl Waiters {
    pub(in crate::bdev) const fn new() -> Self {
        Self { head: Cell::new(ptr::null_mut()), tail: Cell::new(ptr::null_mut()) }
    }

    pub(in crate::bdev) fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }

    /// Queues `wait`, unless it is null.
    ///
    /// # Safety
    /// `wait` is not queued yet. It stays valid and untouched until
    /// [`call_first`](Self::call_first) calls it or [`remove`](Self::remove) returns.
    pub(in crate::bdev) unsafe fn push(&self, wait: *mut bay_wait) {
        if wait.is_null() {
            return;
        }
        // SAFETY: the caller keeps it valid.
        unsafe { (*wait).link = ptr::null_mut() };
        let last = self.tail.replace(wait);
        if self.head.get().is_null() {
            self.head.set(wait);
        } else {
            // SAFETY: the last waiter is queued, so it is valid (invariant).
            unsafe { (*last).link = wait.cast() };
        }
    }

    /// Removes the first waiter and calls it.
    #[cold]
    pub(in crate::bdev) fn call_first(&self) {
        let first = self.head.get();
        if first.is_null() {
            return;
        }
        // SAFETY: it is queued, so it is valid (invariant).
        let bay_wait { cb, arg, link, .. } = unsafe { *first };
        self.head.set(link.cast());
        if let Some(cb) = cb {
            // SAFETY: the callback and its argument belong together, and the waiter is not queued
            // any more.
            unsafe { cb(arg) };
        }
    }

    /// Removes `wait`. Returns whether it was queued.
    pub(in crate::bdev) fn remove(&self, wait: *mut bay_wait) -> bool {
        let (mut before, mut here) = (ptr::null_mut::<bay_wait>(), self.head.get());
        while !here.is_null() {
            // SAFETY: it is queued, so it is valid (invariant).
            let next = unsafe { (*here).link };
            if ptr::eq(here, wait) {
                if before.is_null() {
                    self.head.set(next.cast());
                } else {
                    // SAFETY: it is queued, so it is valid (invariant).
                    unsafe { (*before).link = next };
                }
                if next.is_null() {
                    self.tail.set(before);
                }
                return true;
            }
            (before, here) = (here, next.cast());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::ffi::c_void;

    thread_local! {
        static CALLED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    unsafe extern "C" fn turn(arg: *mut c_void) {
        CALLED.with_borrow_mut(|called| called.push(arg.addr()));
    }

    fn waiter(name: usize) -> bay_wait {
        let arg = ptr::without_provenance_mut(name);
        bay_wait { cb: Some(turn), arg, link: ptr::null_mut(), rsv: 0 }
    }

    #[test]
    fn they_are_called_in_their_order_and_those_that_left_are_not() {
        let mut all = [1, 2, 3, 4, 5].map(waiter);
        let waiters = Waiters::new();
        let places: Vec<*mut bay_wait> = all.iter_mut().map(ptr::from_mut).collect();
        for &place in &places {
            // SAFETY: the array outlives the queue.
            unsafe { waiters.push(place) };
        }
        assert!(waiters.remove(places[0]));
        assert!(waiters.remove(places[2]));
        assert!(waiters.remove(places[4]));
        assert!(!waiters.remove(places[4]));
        // SAFETY: as above; this waiter was just removed.
        unsafe { waiters.push(places[0]) };
        while !waiters.is_empty() {
            waiters.call_first();
        }
        assert_eq!(CALLED.take(), [2, 4, 1]);
    }
}
