//! What is still to be sent: PDU headers in one run of bytes, data where it lies.
//!
//! Small PDUs that follow each other become one slice, so that a burst of responses is one system
//! call with one element.

use super::Carrier;
use super::command::Commands;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Slices of one send.
pub(crate) const SLICES: usize = 128;

/// Headers that wait while the peer does not read: beyond this nothing more is received, in bytes.
const BYTES_MAX: usize = 64 << 10;

/// Data of a command, and the bytes of the run that go before it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: usize,
    /// The slot comes free with the last byte.
    slot: u16,
    offset: u32,
    len: u32,
}

/// The send queue of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes of the run that were sent.
    done: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of the run behind the last piece.
    tail: usize,
}

impl Outbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.tail == 0 && self.pieces.is_empty()
    }

    /// Whether the peer must read before it is listened to again.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.done >= BYTES_MAX
    }

    /// Appends a small PDU or a part of one.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.tail += bytes.len();
    }

    /// Appends zeroes.
    pub(crate) fn pad(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
        self.tail += len;
    }

    /// Appends the first `len` bytes of a command's data.
    #[inline]
    pub(crate) fn data(&mut self, slot: u16, len: u32) {
        let bytes = std::mem::take(&mut self.tail);
        self.pieces.push_back(Piece { bytes, slot, offset: 0, len });
    }

    /// Fills `slices` with what comes next; returns how many it filled.
    pub(crate) fn fill<'a, R: Carrier>(
        &'a self,
        commands: &'a Commands<R>,
        slices: &mut [IoSlice<'a>; SLICES],
    ) -> usize {
        let mut filled = 0;
        let mut run = self.bytes.get(self.done..).unwrap_or(&[]);
        let mut put = |bytes: &'a [u8]| {
            let place = slices.get_mut(filled);
            filled += usize::from(place.is_some());
            place.map(|place| *place = IoSlice::new(bytes)).is_some()
        };
        let filling = (|| {
            for piece in &self.pieces {
                if piece.bytes > 0 {
                    let (head, rest) = run.split_at_checked(piece.bytes)?;
                    put(head).then_some(())?;
                    run = rest;
                }
                for bytes in commands.request(piece.slot)?.data(piece.offset, piece.len) {
                    put(bytes).then_some(())?;
                }
            }
            if self.tail > 0 {
                put(run);
            }
            Some(())
        })();
        // What did not fit comes next time.
        let _ = filling;
        filled
    }

    /// `sent` bytes have left; `release` is told each slot whose data is out.
    pub(crate) fn sent(&mut self, mut sent: usize, mut release: impl FnMut(u16)) {
        while let Some(first) = self.pieces.front_mut() {
            let bytes = sent.min(first.bytes);
            first.bytes -= bytes;
            self.done += bytes;
            sent -= bytes;
            let data = u32::try_from(sent).unwrap_or(u32::MAX).min(first.len);
            first.offset += data;
            first.len -= data;
            sent -= data as usize;
            if first.bytes > 0 || first.len > 0 {
                break;
            }
            release(first.slot);
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            let bytes = sent.min(self.tail);
            self.tail -= bytes;
            self.done += bytes;
        }
        if self.is_empty() {
            self.clear();
        } else if self.done >= BYTES_MAX / 2 {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }

    /// Forgets what was not sent.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        (self.done, self.tail) = (0, 0);
    }
}
