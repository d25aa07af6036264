//! What came and was not understood yet.

/// Length, in bytes: fifteen answers to reads of 4 KiB.
const LEN: usize = 64 << 10;

/// Bytes in front that are moved down to make room: less than the longest header with its padding.
const SMALL: usize = 512;

/// The receive buffer of one connection.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Where the next bytes go. Never empty: all but a part of a header is understood as soon as it has come.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.end - self.start < SMALL {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put where [`Inbox::space`] said.
    pub(super) fn put(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// The first bytes are understood.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }
}
