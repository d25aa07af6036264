//! Memory that a system call sends from or receives into.
//!
//! A piece is an address and a length. No Rust reference to the memory exists, so another program, such as a guest, may share
//! it and change it at any time.
#![expect(unsafe_code, reason = "passes memory to the kernel by its address")]

use crate::bdev::{BdevIo, Buffers, Op};
use crate::shared_copy;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;

/// Memory to send from.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OutPiece<'a> {
    addr: *const u8,
    len: usize,
    lent: PhantomData<&'a ()>,
}

/// Memory to receive into.
#[derive(Debug)]
#[repr(C)]
pub struct InPiece<'a> {
    addr: *mut u8,
    len: usize,
    lent: PhantomData<&'a mut ()>,
}

// On Unix, `IoSlice` has the layout of `struct iovec`, as its documentation says: an address, then a length.
const _: () = assert!(size_of::<OutPiece<'_>>() == size_of::<IoSlice<'_>>());
const _: () = assert!(align_of::<OutPiece<'_>>() == align_of::<IoSlice<'_>>());
const _: () = assert!(size_of::<InPiece<'_>>() == size_of::<IoSliceMut<'_>>());
const _: () = assert!(align_of::<InPiece<'_>>() == align_of::<IoSliceMut<'_>>());

impl<'a> OutPiece<'a> {
    /// An empty piece, for initialising a list.
    pub const EMPTY: Self = Self { addr: std::ptr::null(), len: 0, lent: PhantomData };

    /// Makes a piece from plain bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { addr: bytes.as_ptr(), len: bytes.len(), lent: PhantomData }
    }

    /// Length, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no caller needs is_empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// For a system call that reads the memory and creates no reference to it.
    pub(super) fn as_slices<'b>(pieces: &'b [Self]) -> &'b [IoSlice<'a>] {
        // SAFETY: the layouts are the same; the creator of a piece guarantees that its memory is valid.
        unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast(), pieces.len()) }
    }

    /// Copies the pieces, for a layer that needs the bytes.
    pub(super) fn copy(pieces: &[Self]) -> Vec<u8> {
        let mut bytes = vec![0u8; pieces.iter().map(|piece| piece.len).sum()];
        let mut rest = bytes.as_mut_slice();
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            let (now, later) = rest.split_at_mut(piece.len);
            // SAFETY: the piece is readable for its length, and `bytes` does not overlap it.
            unsafe { shared_copy::copy(piece.addr, now.as_mut_ptr(), piece.len) };
            rest = later;
        }
        bytes
    }
}

impl<'a> InPiece<'a> {
    /// An empty piece, for initialising a list.
    pub const EMPTY: Self = Self { addr: std::ptr::null_mut(), len: 0, lent: PhantomData };

    /// Makes a piece from plain bytes.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { addr: bytes.as_mut_ptr(), len: bytes.len(), lent: PhantomData }
    }

    /// Length, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no caller needs is_empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// For a system call that fills the memory and creates no reference to it.
    pub(super) fn as_slices<'b>(pieces: &'b mut [Self]) -> &'b mut [IoSliceMut<'a>] {
        // SAFETY: the layouts are the same; the creator of a piece guarantees that its memory is valid.
        unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast(), pieces.len()) }
    }

    /// Copies `bytes` into the pieces in order.
    pub(super) fn fill(pieces: &mut [Self], bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces {
            let (now, later) = rest.split_at(piece.len.min(rest.len()));
            if !now.is_empty() {
                // SAFETY: the piece is writable for its length, and `bytes` does not overlap it.
                unsafe { shared_copy::copy(now.as_ptr(), piece.addr, now.len()) };
            }
            rest = later;
        }
    }
}

/// Address and length of each part of `buffers`, from byte `offset` on, at most `len` bytes in total.
fn parts(
    buffers: Buffers<'_>,
    offset: usize,
    len: usize,
) -> impl Iterator<Item = (*mut u8, usize)> {
    let (mut skip, mut left) = (offset, len);
    buffers.pieces().filter_map(move |(addr, piece_len)| {
        let from = skip.min(piece_len);
        skip -= from;
        let part_len = (piece_len - from).min(left);
        left -= part_len;
        (part_len > 0).then(|| (addr.wrapping_add(from), part_len))
    })
}

impl BdevIo {
    /// The I/O's memory from byte `offset` on, at most `len` bytes, to send from.
    pub fn out_pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = OutPiece<'_>> {
        // The I/O owns the memory until it completes, and the pieces borrow the I/O.
        parts(self.buffers(), offset, len).map(|(addr, len)| OutPiece {
            addr,
            len,
            lent: PhantomData,
        })
    }

    /// The memory of a read from byte `offset` on, at most `len` bytes, to receive into. Empty for any other op, whose memory must not be
    /// written.
    pub fn in_pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = InPiece<'_>> {
        let len = if matches!(self.op(), Op::Read(_)) { len } else { 0 };
        // The I/O owns the memory until it completes, and the pieces borrow the I/O. Only the kernel writes to it.
        parts(self.buffers(), offset, len).map(|(addr, len)| InPiece {
            addr,
            len,
            lent: PhantomData,
        })
    }
}
