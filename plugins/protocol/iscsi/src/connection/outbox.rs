//! The PDUs that a connection sends, with their digests. Their data may lie in buffers of I/Os.

use drivebay_spec_iscsi::{BHS_LEN, DIGEST_LEN, digest::Crc32c, pad_len};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

/// PDUs to send. `B` is a buffer of an I/O.
#[derive(Debug)]
pub struct Outbox<B> {
    queue: VecDeque<Segment>,
    /// Number of bytes of the first segment that are sent.
    sent: usize,
    /// Number of bytes that are not sent yet.
    len: usize,
    header_digest: bool,
    data_digest: bool,
    /// Buffers, each with the number of segments that refer to it.
    lent: Vec<Option<(B, usize)>>,
    free: Vec<usize>,
}

/// The data of a PDU.
#[derive(Debug)]
pub enum Body {
    /// No data.
    None,
    /// Data that the PDU owns.
    Bytes(Vec<u8>),
    /// A range of a [lent](Outbox::lend) buffer.
    Lent(usize, Range<usize>),
}

#[derive(Debug)]
struct Segment {
    head: [u8; BHS_LEN + DIGEST_LEN],
    head_len: usize,
    body: Body,
    tail: [u8; 2 * DIGEST_LEN],
    tail_len: usize,
}

impl<B> Default for Outbox<B> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            len: 0,
            header_digest: false,
            data_digest: false,
            lent: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<B: AsRef<[u8]>> Outbox<B> {
    /// Sets whether the following headers and data get digests.
    pub fn set_digests(&mut self, header: bool, data: bool) {
        (self.header_digest, self.data_digest) = (header, data);
    }

    /// Number of bytes that are not sent yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Number of lent buffers that are not completely sent.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent.len() - self.free.len()
    }

    /// Takes a buffer that `count` PDUs will refer to. Drops it when the last of them is sent. Returns its number for
    /// [`Body::Lent`].
    pub fn lend(&mut self, buffer: B, count: usize) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.lent.push(None);
            self.lent.len() - 1
        });
        if let Some(entry) = self.lent.get_mut(place) {
            *entry = Some((buffer, count));
        }
        place
    }

    /// Appends a PDU. The header must contain the length of the body.
    pub fn push(&mut self, bhs: [u8; BHS_LEN], body: Body) {
        let mut segment = Segment {
            head: [0; BHS_LEN + DIGEST_LEN],
            head_len: BHS_LEN,
            body,
            tail: [0; 2 * DIGEST_LEN],
            tail_len: 0,
        };
        if let Some(place) = segment.head.first_chunk_mut() {
            *place = bhs;
        }
        if self.header_digest {
            let mut crc = Crc32c::new();
            crc.update(&bhs);
            if let Some(place) = segment.head.last_chunk_mut() {
                *place = crc.bytes();
            }
            segment.head_len += DIGEST_LEN;
        }
        let data = self.bytes(&segment.body);
        let (data_len, pad) = (data.len(), pad_len(data.len()));
        segment.tail_len = pad;
        if self.data_digest && data_len > 0 {
            let mut crc = Crc32c::new();
            crc.update(data);
            crc.update([0; 3].get(..pad).unwrap_or_default());
            if let Some(place) = segment.tail.get_mut(pad..pad + DIGEST_LEN) {
                place.copy_from_slice(&crc.bytes());
            }
            segment.tail_len += DIGEST_LEN;
        }
        self.len += segment.head_len + data_len + segment.tail_len;
        self.queue.push_back(segment);
    }

    fn bytes<'a>(&'a self, body: &'a Body) -> &'a [u8] {
        match body {
            Body::None => &[],
            Body::Bytes(bytes) => bytes,
            Body::Lent(place, range) => {
                let buffer = self.lent.get(*place).and_then(Option::as_ref);
                buffer
                    .and_then(|(buffer, _)| buffer.as_ref().get(range.clone()))
                    .unwrap_or_default()
            }
        }
    }

    /// Fills `slices` with the next bytes to send. Returns the number of slices.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut count, mut skip) = (0, self.sent);
        for segment in &self.queue {
            let head = segment.head.get(..segment.head_len).unwrap_or_default();
            let tail = segment.tail.get(..segment.tail_len).unwrap_or_default();
            for part in [head, self.bytes(&segment.body), tail] {
                let rest = part.get(skip..).unwrap_or_default();
                skip -= part.len() - rest.len();
                if rest.is_empty() {
                    continue;
                }
                let Some(slice) = slices.get_mut(count) else { return count };
                *slice = IoSlice::new(rest);
                count += 1;
            }
        }
        count
    }

    /// Removes `len` bytes that were sent.
    pub fn sent(&mut self, len: usize) {
        self.len -= len.min(self.len);
        self.sent += len;
        while let Some(segment) = self.queue.front() {
            let whole = segment.head_len + self.bytes(&segment.body).len() + segment.tail_len;
            if self.sent < whole {
                return;
            }
            self.sent -= whole;
            if let Some(Segment { body: Body::Lent(place, _), .. }) = self.queue.pop_front() {
                self.put(place);
            }
        }
        self.sent = 0;
    }

    /// Drops one reference to a lent buffer.
    fn put(&mut self, place: usize) {
        let Some(entry) = self.lent.get_mut(place) else { return };
        if let Some((_, count)) = entry {
            *count = count.saturating_sub(1);
            if *count == 0 {
                *entry = None;
                self.free.push(place);
            }
        }
    }

    /// Removes and returns all bytes to send.
    pub fn take_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = self.slices(&mut slices);
            let before = all.len();
            for slice in slices.iter().take(count) {
                all.extend_from_slice(slice);
            }
            let len = all.len() - before;
            self.sent(len);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_when_the_last_pdu_that_names_it_is_sent() {
        let mut outbox = Outbox::<Vec<u8>>::default();
        let place = outbox.lend(vec![1, 2, 3, 4, 5], 2);
        outbox.push([0xaa; BHS_LEN], Body::Lent(place, 0..3));
        outbox.push([0xbb; BHS_LEN], Body::Lent(place, 3..5));
        assert_eq!((outbox.len(), outbox.lent()), (2 * BHS_LEN + 8, 1));
        outbox.sent(BHS_LEN + 4);
        assert_eq!(outbox.lent(), 1);
        let rest = outbox.take_all();
        assert_eq!(rest[BHS_LEN..], [4, 5, 0, 0]);
        assert_eq!((outbox.len(), outbox.lent()), (0, 0));
    }

    #[test]
    fn what_is_sent_byte_by_byte_is_what_is_sent_at_once() {
        let make = || {
            let mut outbox = Outbox::<Vec<u8>>::default();
            outbox.set_digests(true, true);
            outbox.push([1; BHS_LEN], Body::Bytes(vec![7; 5]));
            outbox.push([2; BHS_LEN], Body::None);
            outbox
        };
        let whole = make().take_all();
        let mut outbox = make();
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 1];
            assert_eq!(outbox.slices(&mut slices), 1);
            bytes.push(slices[0][0]);
            outbox.sent(1);
        }
        assert_eq!(bytes, whole);
    }
}
