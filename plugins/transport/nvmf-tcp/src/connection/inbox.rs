//! The receive buffer: one buffer for all connections of a group, which use it in turn.
//!
//! So the buffer stays in the processor's cache for any number of connections, and an idle connection has no buffer. At
//! the end of its turn, a connection keeps the bytes that it has not processed, mostly a part of a header.

use drivebay_spec_nvme_tcp::CapsuleCmd;

/// Length of the buffer, in bytes: room for two thousand commands, or for 39 with 4 KiB of data each.
pub(crate) const LEN: usize = 160 << 10;

/// Length of the header of a capsule, in bytes.
const HEADER: usize = CapsuleCmd::LEN;

/// The maximum amount of memory for kept bytes that a connection holds, in bytes: a whole queue of commands without data.
const KEPT_HOLD: usize = 16 << 10;

/// Bytes that were received and not yet processed.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Empty while it is another connection's turn.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Takes the buffer of `shared` and puts the kept bytes in front.
    #[inline]
    pub(crate) fn begin_turn(&mut self, shared: &mut Self, kept: &mut Vec<u8>) {
        std::mem::swap(self, shared);
        self.clear();
        if kept.is_empty() {
            return;
        }
        if let Some(place) = self.bytes.get_mut(..kept.len()) {
            place.copy_from_slice(kept);
            self.end = kept.len();
        }
        if kept.capacity() > KEPT_HOLD {
            *kept = Vec::new();
        }
        kept.clear();
    }

    /// Gives the buffer back and keeps its bytes.
    #[inline]
    pub(crate) fn end_turn(&mut self, shared: &mut Self, kept: &mut Vec<u8>) {
        kept.extend_from_slice(self.filled());
        self.clear();
        std::mem::swap(self, shared);
    }

    #[inline]
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The place for the next bytes. It is empty when the buffer is full. If the buffer has less than a header, all the
    /// rest is free.
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.clear();
        } else if self.start > 0 && (self.end == self.bytes.len() || self.filled().len() < HEADER) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Makes room for each of `data` behind a header of `header_len` bytes, and copies it there. The first header is at
    /// the front. Bytes that follow the last of these headers move behind its data.
    pub(crate) fn spread(&mut self, header_len: usize, data: &[&[u8]]) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut from = self.end;
        self.end += data.iter().map(|data| data.len()).sum::<usize>();
        let mut to = self.end;
        // Goes from the last to the first, so it overwrites nothing that still has to be moved.
        for (i, data) in data.iter().enumerate().rev() {
            let behind = (i + 1) * header_len;
            to -= from - behind;
            self.bytes.copy_within(behind..from, to);
            from = behind;
            to -= data.len();
            if let Some(place) = self.bytes.get_mut(to..to + data.len()) {
                place.copy_from_slice(data);
            }
        }
    }

    /// Accounts for `n` bytes that were written to [`Inbox::space`].
    #[inline]
    pub(crate) fn put(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Removes the first `n` bytes, which were processed.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_turn_left_is_in_front_at_the_next_whoever_was_between() {
        let mut shared = Inbox::new();
        let (mut first, mut kept) = (Inbox::default(), Vec::new());
        first.begin_turn(&mut shared, &mut kept);
        first.space()[..5].copy_from_slice(b"abcde");
        first.put(5);
        first.consume(2);
        first.end_turn(&mut shared, &mut kept);
        assert_eq!(kept, b"cde");

        let (mut other, mut none) = (Inbox::default(), Vec::new());
        other.begin_turn(&mut shared, &mut none);
        assert!(other.is_empty());
        other.space()[..3].copy_from_slice(b"xyz");
        other.put(3);
        other.consume(3);
        other.end_turn(&mut shared, &mut none);
        assert!(none.is_empty());

        first.begin_turn(&mut shared, &mut kept);
        first.space()[..1].copy_from_slice(b"f");
        first.put(1);
        assert_eq!(first.filled(), b"cdef");
        assert!(kept.is_empty());
    }

    #[test]
    fn memory_for_much_that_was_kept_is_given_back() {
        let mut shared = Inbox::new();
        let (mut inbox, mut kept) = (Inbox::default(), Vec::new());
        inbox.begin_turn(&mut shared, &mut kept);
        inbox.put(LEN);
        assert!(inbox.space().is_empty());
        inbox.end_turn(&mut shared, &mut kept);
        assert_eq!(kept.len(), LEN);
        inbox.begin_turn(&mut shared, &mut kept);
        assert_eq!((inbox.filled().len(), kept.capacity()), (LEN, 0));
    }

    #[test]
    fn data_is_spread_behind_its_headers_and_what_follows_stays_behind() {
        for (filled, data, line) in [
            (&b"--aabbcc"[..], &[&b"123"[..], b"456"][..], &b"aa123bb456cc"[..]),
            (b"--aabbcctail", &[b"123", b"456", b"7"], b"aa123bb456cc7tail"),
            (b"aab", &[b"123"], b"aa123b"),
            (b"--aa", &[b"1"], b"aa1"),
            (b"--aa", &[], b"aa"),
        ] {
            let mut inbox = Inbox::new();
            inbox.space()[..filled.len()].copy_from_slice(filled);
            inbox.put(filled.len());
            inbox.consume(filled.iter().take_while(|byte| **byte == b'-').count());
            inbox.spread(2, data);
            assert_eq!(inbox.filled(), line);
        }
    }
}
