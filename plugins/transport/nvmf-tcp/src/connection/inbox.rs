//! The receive buffer of one connection.

/// Its length, in bytes: some hundred commands, or a dozen with 4 KiB of data each.
pub(crate) const LEN: usize = 64 << 10;

/// Bytes received and not yet understood.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where the next bytes go; empty when the buffer is full.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    pub(crate) fn has_space(&self) -> bool {
        self.end - self.start < self.bytes.len()
    }

    /// `n` bytes were put where [`Inbox::space`] said.
    pub(crate) fn put(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// The first `n` bytes are understood.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}
