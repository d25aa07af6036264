//! The reserve buffer of a channel, allocated when the host's pools are empty for the first time.
//! An I/O that holds a buffer may wait for another I/O further down the stack that needs one. If
//! all buffers were held this way, none of them could continue. With one reserve buffer for each
//! channel, the lowest one always can.

use crate::env::memory;
use std::cell::Cell;
use std::ptr::NonNull;

/// The buffer, once it was needed, and whether it is in use.
#[derive(Default)]
pub(in crate::bdev) struct Reserve {
    buffer: Cell<Option<(NonNull<u8>, u32)>>,
    len: Cell<usize>,
    taken: Cell<bool>,
}

impl Reserve {
    /// Returns the buffer and its region; `None` when it is in use or there is no memory for it.
    /// `len`, in bytes, is the same in every call.
    pub(in crate::bdev) fn take(&self, len: usize) -> Option<(NonNull<u8>, u32)> {
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

    /// Takes the buffer back. Returns false when `buffer` is not the reserve buffer.
    pub(in crate::bdev) fn put(&self, buffer: NonNull<u8>) -> bool {
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
