//! Bytes that have arrived and are not parsed yet.

/// Length of the buffer in bytes. Fifteen answers to reads of 4 KiB fit.
const LEN: usize = 64 << 10;

/// Fewer bytes than this are moved to the front to make room. The longest header with its padding is shorter.
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

    /// The room for the next bytes. It is never empty, because all bytes except an incomplete header are parsed as
    /// soon as they arrive.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.end - self.start < SMALL {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Adds `len` bytes that were written to [`Inbox::space`].
    pub(super) fn put(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// Drops the first `len` bytes, which are parsed.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }
}
