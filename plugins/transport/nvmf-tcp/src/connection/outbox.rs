//! The send queue: PDU headers in one run of bytes, data in its own place.
//!
//! Small PDUs that follow each other form one slice, so a burst of responses is one system call with one element.
//! Responses are sent behind the data of their burst. So a polling host gets them all at once, and sends its next
//! commands in one piece instead of a few at a time.

use super::Carrier;
use super::command::Commands;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Slices of one send.
pub(crate) const SLICES: usize = 128;

/// The maximum number of bytes of headers that wait while the peer does not read. Above this, the connection receives nothing
/// more.
const BYTES_MAX: usize = 64 << 10;

/// The maximum number of responses of one burst.
const RESPONSES_MAX: usize = 32;

/// The maximum amount of data of one burst, in bytes.
const BURST_DATA_MAX: u32 = 128 << 10;

/// The data of a command, and the number of bytes of the run before it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: usize,
    /// The slot that becomes free when the last byte is sent.
    slot: u16,
    offset: u32,
    len: u32,
}

/// The send queue of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Number of sent bytes of the run.
    done: usize,
    pieces: VecDeque<Piece>,
    /// Number of bytes of the run behind the last piece of data.
    tail: usize,
    /// Responses of the burst that still have to follow its data.
    responses: Vec<u8>,
    /// Number of these responses.
    responded: usize,
    /// Bytes of data of the burst.
    burst_data: u32,
}

impl Outbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.tail == 0 && self.pieces.is_empty() && self.responses.is_empty()
    }

    /// Whether the peer must read before the connection receives again.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.done + self.responses.len() >= BYTES_MAX
    }

    /// Appends a small PDU or a part of one.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.tail += bytes.len();
    }

    /// Appends a response. It follows everything else that is appended before [`Outbox::end_burst`].
    #[inline]
    pub(crate) fn respond(&mut self, header: &[u8; 24], digest: Option<[u8; 4]>) {
        self.responses.extend_from_slice(header);
        self.responses.extend_from_slice(digest.as_ref().map_or(&[], |digest| digest));
        self.responded += 1;
    }

    /// Whether the burst has reached its limit of responses or of data. A longer burst would make the host wait for the
    /// responses.
    #[inline]
    pub(crate) fn burst_is_long(&self, responses_max: usize) -> bool {
        self.responded >= responses_max.min(RESPONSES_MAX) || self.burst_data >= BURST_DATA_MAX
    }

    /// Appends the responses of the burst.
    #[inline]
    pub(crate) fn end_burst(&mut self) {
        self.bytes.extend_from_slice(&self.responses);
        self.tail += self.responses.len();
        self.responses.clear();
        (self.responded, self.burst_data) = (0, 0);
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
        self.burst_data = self.burst_data.saturating_add(len);
    }

    /// Fills `slices` with the next bytes. Returns the number of slices.
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
        // The next call sends what did not fit.
        let _ = filling;
        filled
    }

    /// Removes `sent` bytes. Calls `release` with each slot whose data is sent.
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

    /// Drops everything that was not sent.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        self.responses.clear();
        (self.done, self.tail, self.responded, self.burst_data) = (0, 0, 0, 0);
    }
}
