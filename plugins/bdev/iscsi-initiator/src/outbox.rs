//! The bytes that a session must send: PDUs with their padding and digests. RFC 7143, section 11.2.

use drivebay_spec_iscsi::{BHS_LEN, digest, pad_len};

/// Bytes to send. It keeps its memory for the next PDUs.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// The bytes before this index were sent.
    start: usize,
    /// Number of bytes sent in total.
    total: u64,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// The bytes that were not sent yet.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The position of the first byte that was not sent yet, counted from the start of the session.
    pub(crate) fn start(&self) -> u64 {
        self.total
    }

    /// The position after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.total + self.rest().len() as u64
    }

    /// Reports that the first `len` bytes of [`rest`](Self::rest) were sent.
    pub(crate) fn sent(&mut self, len: usize) {
        let len = len.min(self.rest().len());
        self.total += len as u64;
        self.start += len;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            // Each byte that moves is paid for by a byte that was sent.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Appends a PDU. `fill` appends its data. `has_digests`: whether headers have digests, and whether data has.
    pub(crate) fn push(
        &mut self,
        bhs: &[u8; BHS_LEN],
        has_digests: (bool, bool),
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let bytes = &mut self.bytes;
        bytes.extend(bhs);
        if has_digests.0 {
            bytes.extend(digest::of(bhs));
        }
        let start = bytes.len();
        fill(bytes);
        let len = bytes.len() - start;
        bytes.extend(std::iter::repeat_n(0, pad_len(len)));
        if has_digests.1 && len > 0 {
            let digest = digest::of(bytes.get(start..).unwrap_or_default());
            bytes.extend(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_sent_once_and_in_order_however_few_the_socket_takes() {
        let mut outbox = Outbox::default();
        let mut sent: Vec<u8> = Vec::new();
        for byte in 0..50 {
            outbox.push(&[byte; BHS_LEN], (false, false), |out| out.extend([byte; 5]));
            let len = outbox.rest().len().min(37);
            sent.extend(&outbox.rest()[..len]);
            outbox.sent(len);
        }
        sent.extend(outbox.rest());
        outbox.sent(usize::MAX);
        assert!(outbox.is_empty());
        assert_eq!((outbox.start(), outbox.end()), (50 * 56, 50 * 56));
        let wanted: Vec<u8> = (0..50)
            .flat_map(|byte| [[byte; BHS_LEN].as_slice(), &[byte; 5], &[0; 3]].concat())
            .collect();
        assert_eq!(sent, wanted);
    }
}
