//! One request of a driver: the buffers that the device reads, then those that it writes.
#![expect(unsafe_code, reason = "raw pointers access guest memory")]

use crate::memory::GuestMemory;
use crate::queue::Broken;
use drivebay_spec_vhost::ring::{Descriptor, F_WRITE};
use std::ptr::NonNull;

/// Maximum number of pieces of one chain. Devices offer fewer segments, because a buffer that crosses parts of the memory takes two pieces.
pub const PIECES_MAX: usize = 256;
/// Pieces for which a new chain has room. Longer chains grow it once, because chains are reused.
pub(crate) const PIECES_AT_FIRST: usize = 8;

/// A part of a buffer that is contiguous in the host's address space.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First byte.
    pub addr: NonNull<u8>,
    /// Length, in bytes; never 0.
    pub len: u32,
    /// The number of its memory region.
    pub region: u32,
}

/// A chain of buffers. [`Queue::pop`](crate::Queue::pop) fills it. The device reuses chains, so requests soon allocate nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// Buffers that the device reads, then buffers that it writes.
    pieces: Vec<Piece>,
    num_readable: usize,
    readable_len: u64,
    writable_len: u64,
    /// The id that the ring hands back.
    pub(crate) id: u16,
    /// Entries of a packed ring that it takes.
    pub(crate) num_entries: u16,
    /// First entry of its record of a packed ring.
    pub(crate) record: u16,
}

impl Chain {
    /// Creates an empty chain with room for a usual one.
    #[must_use]
    pub fn new() -> Self {
        Self { pieces: Vec::with_capacity(PIECES_AT_FIRST), ..Self::default() }
    }

    /// Buffers that the device reads.
    #[must_use]
    pub fn readable(&self) -> &[Piece] {
        self.pieces.get(..self.num_readable).unwrap_or_default()
    }

    /// Buffers that the device writes.
    #[must_use]
    pub fn writable(&self) -> &[Piece] {
        self.pieces.get(self.num_readable..).unwrap_or_default()
    }

    /// Bytes that the device reads.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Maximum number of bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// The id of the chain in the ring.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Copies `bytes.len()` bytes at `offset` of the buffers that the device reads. Returns false, and copies nothing, when the
    /// buffers are too short.
    #[must_use]
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        copy(self.readable(), offset, bytes.len(), |addr, at, len| {
            let Some(to) = bytes.get_mut(at..at + len) else { return };
            // SAFETY: the piece has `len` bytes at `addr`, the slice has as many, and they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(addr.as_ptr(), to.as_mut_ptr(), len) };
        })
    }

    /// Copies `bytes` to `offset` of the buffers that the device writes. Returns false, and copies nothing, when the buffers are
    /// too short.
    #[must_use]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        copy(self.writable(), offset, bytes.len(), |addr, at, len| {
            let Some(from) = bytes.get(at..at + len) else { return };
            // SAFETY: the slice has `len` bytes, the piece has as many at `addr`, and they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), addr.as_ptr(), len) };
        })
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        (self.num_readable, self.readable_len, self.writable_len) = (0, 0, 0);
        (self.id, self.num_entries, self.record) = (0, 0, 0);
    }

    /// Adds the buffer of a descriptor.
    pub(crate) fn add(
        &mut self,
        memory: &GuestMemory,
        descriptor: Descriptor,
    ) -> Result<(), Broken> {
        let is_written = descriptor.flags & F_WRITE != 0;
        let (mut addr, mut rest) = (descriptor.addr, u64::from(descriptor.len));
        if rest == 0 {
            return Err(Broken::EmptyBuffer);
        }
        if is_written {
            self.writable_len += rest;
        } else if self.num_readable < self.pieces.len() {
            return Err(Broken::ReadableAfterWritable);
        } else {
            self.readable_len += rest;
        }
        while rest > 0 {
            let span = memory.span(addr, rest).ok_or(Broken::Address { addr, len: rest })?;
            if self.pieces.len() == PIECES_MAX {
                return Err(Broken::LongChain);
            }
            // A span is at most as long as the descriptor's `u32`.
            let len = u32::try_from(span.len).unwrap_or(u32::MAX);
            self.pieces.push(Piece { addr: span.addr, len, region: span.number });
            self.num_readable += usize::from(!is_written);
            // No part contains the last byte of the address space, so the end of a part never wraps.
            (addr, rest) = (addr.wrapping_add(span.len), rest - span.len);
        }
        Ok(())
    }
}

/// Calls `each` with the address, the offset in the copy and the length of each piece of `len` bytes at `offset`. Returns false,
/// without a call, when the pieces are too short.
fn copy(
    pieces: &[Piece],
    mut offset: u64,
    len: usize,
    mut each: impl FnMut(NonNull<u8>, usize, usize),
) -> bool {
    let whole: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
    if offset.checked_add(len as u64).is_none_or(|end| end > whole) {
        return false;
    }
    let mut done = 0;
    for piece in pieces {
        if done == len {
            break;
        }
        let piece_len = u64::from(piece.len);
        if offset >= piece_len {
            offset -= piece_len;
            continue;
        }
        // Both fit, because a piece has at most 4 GiB.
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = usize::try_from(piece_len - offset).unwrap_or(usize::MAX).min(len - done);
        // SAFETY: `skip` is less than the piece's length.
        each(unsafe { piece.addr.add(skip) }, done, count);
        (done, offset) = (done + count, 0);
    }
    true
}
