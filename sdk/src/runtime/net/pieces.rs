//! Memory that a system call sends from or receives into.
//!
//! A piece is an address and a length. No Rust reference to the memory exists, so another program, such as a guest, may share
//! it and change it at any time.
#![expect(unsafe_code, reason = "hands the kernel memory by its address")]

use crate::bdev::{BdevIo, Buffers, Op};
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

// `IoSlice` has the layout of `struct iovec` on Unix, as its documentation says: an address, then a length.
const _: () = assert!(size_of::<OutPiece<'_>>() == size_of::<IoSlice<'_>>());
const _: () = assert!(align_of::<OutPiece<'_>>() == align_of::<IoSlice<'_>>());
const _: () = assert!(size_of::<InPiece<'_>>() == size_of::<IoSliceMut<'_>>());
const _: () = assert!(align_of::<InPiece<'_>>() == align_of::<IoSliceMut<'_>>());

impl<'a> OutPiece<'a> {
    /// An empty piece, to fill a list with.
    pub const EMPTY: Self = Self { addr: std::ptr::null(), len: 0, lent: PhantomData };

    /// Plain bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { addr: bytes.as_ptr(), len: bytes.len(), lent: PhantomData }
    }

    /// Length, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// For a system call, which reads the memory and makes no reference of it.
    pub(super) fn as_slices<'b>(pieces: &'b [Self]) -> &'b [IoSlice<'a>] {
        // SAFETY: the layouts are the same; whoever made a piece answers for its memory.
        unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast(), pieces.len()) }
    }

    /// A copy, for a layer that has to see the bytes.
    pub(super) fn copy(pieces: &[Self]) -> Vec<u8> {
        let mut bytes = vec![0u8; pieces.iter().map(|piece| piece.len).sum()];
        let mut rest = bytes.as_mut_slice();
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            let (now, later) = rest.split_at_mut(piece.len);
            // SAFETY: readable for its length, and `bytes` is another memory.
            unsafe { piece.addr.copy_to_nonoverlapping(now.as_mut_ptr(), piece.len) };
            rest = later;
        }
        bytes
    }
}

impl<'a> InPiece<'a> {
    /// An empty piece, to fill a list with.
    pub const EMPTY: Self = Self { addr: std::ptr::null_mut(), len: 0, lent: PhantomData };

    /// Plain bytes.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { addr: bytes.as_mut_ptr(), len: bytes.len(), lent: PhantomData }
    }

    /// Length, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// For a system call, which fills the memory and makes no reference of it.
    pub(super) fn as_slices<'b>(pieces: &'b mut [Self]) -> &'b mut [IoSliceMut<'a>] {
        // SAFETY: the layouts are the same; whoever made a piece answers for its memory.
        unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast(), pieces.len()) }
    }

    /// Fills the pieces in order.
    pub(super) fn fill(pieces: &mut [Self], bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces {
            let (now, later) = rest.split_at(piece.len.min(rest.len()));
            if !now.is_empty() {
                // SAFETY: writable for its length, and `bytes` is another memory.
                unsafe { piece.addr.copy_from_nonoverlapping(now.as_ptr(), now.len()) };
            }
            rest = later;
        }
    }
}

/// Address and length of the parts of `buffers` from `offset` on, `len` bytes in all at most.
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
    /// The I/O's memory from `offset` on, at most `len` bytes, to send it.
    pub fn out_pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = OutPiece<'_>> {
        // The memory is the I/O's until it ends, and the pieces borrow it.
        parts(self.buffers(), offset, len).map(|(addr, len)| OutPiece {
            addr,
            len,
            lent: PhantomData,
        })
    }

    /// The memory of a read from `offset` on, at most `len` bytes, to receive into it. Nothing for another op, whose memory is for
    /// reading only.
    pub fn in_pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = InPiece<'_>> {
        let len = if matches!(self.op(), Op::Read(_)) { len } else { 0 };
        // The memory is the I/O's until it ends, and the pieces borrow it. Only the kernel writes it.
        parts(self.buffers(), offset, len).map(|(addr, len)| InPiece {
            addr,
            len,
            lent: PhantomData,
        })
    }
}
