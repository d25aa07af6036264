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

#[derive(Clone, Copy, Debug)]
enum Segment {
    /// The next bytes of the run.
    Bytes(usize),
    /// Data of a command, whose slot comes free with the last byte.
    Data { slot: u16, offset: u32, len: u32 },
}

/// The send queue of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes of the run that were sent.
    done: usize,
    segments: VecDeque<Segment>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether the peer must read before it is listened to again.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.done >= BYTES_MAX
    }

    /// Lets `write` append a small PDU or a part of one.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let more = self.bytes.len() - before;
        if let Some(Segment::Bytes(len)) = self.segments.back_mut() {
            *len += more;
        } else if more > 0 {
            self.segments.push_back(Segment::Bytes(more));
        }
    }

    /// Appends the first `len` bytes of a command's data.
    pub(crate) fn data(&mut self, slot: u16, len: u32) {
        self.segments.push_back(Segment::Data { slot, offset: 0, len });
    }

    /// Fills `slices` with what comes next; returns how many it filled.
    pub(crate) fn fill<'a, R: Carrier>(
        &'a self,
        commands: &'a Commands<R>,
        slices: &mut [IoSlice<'a>; SLICES],
    ) -> usize {
        let mut filled = 0;
        let mut run = self.bytes.get(self.done..).unwrap_or(&[]);
        let mut room = slices.iter_mut();
        for segment in &self.segments {
            match *segment {
                Segment::Bytes(len) => {
                    let Some((head, rest)) = run.split_at_checked(len) else { break };
                    let Some(place) = room.next() else { return filled };
                    *place = IoSlice::new(head);
                    run = rest;
                    filled += 1;
                }
                Segment::Data { slot, offset, len } => {
                    let Some(request) = commands.request(slot) else { break };
                    for piece in request.data(offset, len) {
                        let Some(place) = room.next() else { return filled };
                        *place = IoSlice::new(piece);
                        filled += 1;
                    }
                }
            }
        }
        filled
    }

    /// `sent` bytes have left; `release` is told each slot whose data is out.
    pub(crate) fn sent(&mut self, mut sent: usize, mut release: impl FnMut(u16)) {
        while let Some(first) = self.segments.front_mut() {
            match first {
                Segment::Bytes(len) => {
                    let n = sent.min(*len);
                    *len -= n;
                    sent -= n;
                    self.done += n;
                    if *len > 0 {
                        break;
                    }
                }
                Segment::Data { slot, offset, len } => {
                    let n = u32::try_from(sent).unwrap_or(u32::MAX).min(*len);
                    *offset += n;
                    *len -= n;
                    sent -= n as usize;
                    if *len > 0 {
                        break;
                    }
                    release(*slot);
                }
            }
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            self.clear();
        } else if self.done >= BYTES_MAX / 2 {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }

    /// Forgets what was not sent.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.segments.clear();
        self.done = 0;
    }
}
