//! Replies that wait to be sent.

use super::piece::{Piece, Pieces};
use drivebay_sdk::runtime::net::Stream;
use drivebay_spec_nbd::transmission::Head;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Maximum number of slices that one system call sends.
const SLICES_MAX: usize = 64;

/// Replies, in the order in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    replies: VecDeque<Outgoing>,
    /// Bytes of the first reply that are sent already.
    sent: usize,
    /// Weight of the pieces in it.
    weight: usize,
}

#[derive(Debug)]
struct Outgoing {
    head: Head,
    /// The data of a read.
    data: Option<Box<Piece>>,
    /// The extents of a block status.
    bytes: Vec<u8>,
}

impl Outgoing {
    fn parts(&self) -> [&[u8]; 3] {
        let data: &[u8] = self.data.as_ref().map_or(&[], |piece| &piece.buf);
        [self.head.as_bytes(), data, &self.bytes]
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

impl Outbox {
    pub(super) fn push(&mut self, head: Head, data: Option<Box<Piece>>, bytes: Vec<u8>) {
        self.weight += data.as_ref().map_or(0, |piece| piece.weight());
        self.replies.push_back(Outgoing { head, data, bytes });
    }

    pub(super) fn len(&self) -> usize {
        self.replies.len()
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends as much as the socket takes. Pieces that were sent become spare.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn send(&mut self, stream: &mut Stream, spare: &mut Pieces) -> io::Result<()> {
        while !self.replies.is_empty() && stream.is_writable() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut skip = self.sent;
            let parts = self.replies.iter().flat_map(Outgoing::parts).filter_map(|part| {
                let skipped = skip.min(part.len());
                skip -= skipped;
                part.get(skipped..).filter(|part| !part.is_empty())
            });
            let mut count = 0;
            for (place, part) in slices.iter_mut().zip(parts) {
                *place = IoSlice::new(part);
                count += 1;
            }
            let taken = stream.write(slices.get(..count).unwrap_or_default(), false)?;
            if taken == 0 {
                break;
            }
            self.sent += taken;
            self.drop_sent(spare);
        }
        Ok(())
    }

    fn drop_sent(&mut self, spare: &mut Pieces) {
        while let Some(len) = self.replies.front().map(Outgoing::len)
            && self.sent >= len
        {
            self.sent -= len;
            if let Some(piece) = self.replies.pop_front().and_then(|reply| reply.data) {
                self.weight -= piece.weight();
                piece.keep(spare);
            }
        }
    }
}
