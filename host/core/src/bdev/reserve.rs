//! One buffer of a channel's own, made when the host's pools are empty for the first time. An I/O that
//! holds a buffer may wait for one further down the stack; were all buffers held so, nobody would go
//! on. With one buffer for each channel the lowest always can.

use crate::env::memory;
use std::cell::Cell;
use std::ptr::NonNull;

/// The buffer, if it was needed, and whether it is in use.
#[derive(Default)]
pub(super) struct Reserve {
    buffer: Cell<Option<(NonNull<u8>, u32)>>,
    len: Cell<usize>,
    taken: Cell<bool>,
}

impl Reserve {
    /// The buffer and its region, unless it is taken or cannot be had. `len`, in bytes, is the same in
    /// every call.
    pub(super) fn take(&self, len: usize) -> Option<(NonNull<u8>, u32)> {
        if self.taken.get() || (self.buffer.get().is_some() && self.len.get() < len) {
            return None;
        }
        if self.buffer.get().is_none() {
            self.buffer.set(memory::alloc(len, 4096).ok());
            self.len.set(len);
        }
        self.taken.set(self.buffer.get().is_some());
        self.buffer.get()
    }

    /// Takes it back; whether it was this one.
    pub(super) fn put(&self, buffer: NonNull<u8>) -> bool {
        let ours = self.buffer.get().is_some_and(|(own, _)| own == buffer);
        if ours {
            self.taken.set(false);
        }
        ours
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if let Some((buffer, _)) = self.buffer.get() {
            memory::free(buffer.as_ptr());
        }
    }
}
