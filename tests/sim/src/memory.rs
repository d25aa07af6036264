//! The clients' memory: lists of any shape, with guard bytes between their pieces.

use crate::sim::sim;
use drivebay_plugin_api::bay_iov;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;

/// Bytes of one buffer: the largest I/O with the gaps in its list.
const SIZE: usize = 96 << 10;
const GUARD: u8 = 0xee;

fn layout() -> Layout {
    Layout::from_size_align(SIZE, 4096).unwrap()
}

/// Memory with a buffer list over it.
///
/// # Invariants
/// `base` is an allocation of [`layout`], all initialized, which this value owns. `used` is at most `SIZE`.
/// While an I/O has the list, its client does not touch the memory.
pub(crate) struct Memory {
    base: NonNull<u8>,
    pub(crate) list: Vec<bay_iov>,
    /// Bytes of `base` in use, with the gaps.
    used: usize,
}

thread_local! {
    /// Freed memory is kept for the next seed. Otherwise the queues of ended threads, which are never freed,
    /// would occupy it, and each seed would need new pages.
    static FREE: RefCell<Vec<Memory>> = RefCell::default();
}

impl Memory {
    pub(crate) fn take() -> Self {
        FREE.with_borrow_mut(Vec::pop).unwrap_or_else(Self::new)
    }

    pub(crate) fn give_back(self) {
        FREE.with_borrow_mut(|free| free.push(self));
    }

    fn new() -> Self {
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout()) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout()));
        Self { base, list: Vec::new(), used: 0 }
    }

    /// Lays out a list of `len` bytes in a shape that the seed chooses.
    pub(crate) fn shape(&mut self, len: usize, block: usize) {
        let rng = &sim().rng;
        let (most, unit) = match rng.below(10) {
            0..4 => (len, len),        // one piece
            4..6 => (len, block),      // whole blocks
            6..8 => (len.min(600), 1), // anything
            _ => (block, 8),
        };
        let align = rng.pick(&[1, 3, 8, 64, 512, 4096]);
        let gap = usize::from(rng.chance(50)) * 8;
        self.list.clear();
        let (mut at, mut left) = (0_usize, len);
        while left > 0 {
            let mut piece = rng.within(1, most as u64) as usize;
            piece = if unit >= left { left } else { piece.next_multiple_of(unit).min(left) };
            if self.list.len() >= 12 || at + left + 8192 > SIZE - 8192 {
                piece = left;
            }
            at = if align == 3 { at + 3 } else { at.next_multiple_of(align) };
            let addr = self.base.as_ptr().wrapping_add(at).cast();
            self.list.push(bay_iov { addr, len: piece as u32, region: 0 });
            at += piece + gap;
            left -= piece;
        }
        assert!(at <= SIZE, "the list does not fit its memory");
        self.used = at;
    }

    /// The bytes in use.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the `used` bytes are allocated and initialized, and no I/O writes them (invariants).
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.used) }
    }

    /// The bytes in use.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the `used` bytes are allocated and initialized, and no I/O uses them (invariants).
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.used) }
    }

    /// Where a piece of the list lies in these bytes.
    fn place(&self, piece: bay_iov) -> Range<usize> {
        let begin = piece.addr as usize - self.base.as_ptr() as usize;
        begin..begin + piece.len as usize
    }

    /// Fills all memory with guard bytes.
    pub(crate) fn guard(&mut self) {
        self.bytes_mut().fill(GUARD);
    }

    /// Writes `data` into the pieces.
    pub(crate) fn scatter(&mut self, data: &[u8]) {
        let mut at = 0;
        for index in 0..self.list.len() {
            let place = self.place(self.list[index]);
            let len = place.len();
            self.bytes_mut()[place].copy_from_slice(&data[at..at + len]);
            at += len;
        }
    }

    /// Reads the pieces into `data`.
    pub(crate) fn gather(&self, data: &mut Vec<u8>) {
        data.clear();
        for &piece in &self.list {
            data.extend_from_slice(&self.bytes()[self.place(piece)]);
        }
    }

    /// Whether the guard bytes around the pieces are intact.
    pub(crate) fn is_guarded(&self) -> bool {
        let mut at = 0;
        let all = self.bytes();
        for &piece in &self.list {
            let place = self.place(piece);
            if all[at..place.start].iter().any(|&byte| byte != GUARD) {
                return false;
            }
            at = place.end;
        }
        all[at..].iter().all(|&byte| byte == GUARD)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `base` is an allocation of this layout, and this value owns it (invariant).
        unsafe { dealloc(self.base.as_ptr(), layout()) };
    }
}
