//! The output that is not sent yet: headers in one run of bytes, data in its owner's memory.

use super::Payload;
use drivebay_spec_nvme_tcp::digest::{self, Crc32c};
use drivebay_spec_nvme_tcp::{Fes, Placement, ProtocolError, Role, TermReq};
use std::collections::VecDeque;

/// How many sent bytes stay at the front before the rest is moved there.
const SENT_MAX: usize = 32 << 10;

/// Data of a command, and how many bytes of the run go before it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: usize,
    cid: u16,
    offset: u32,
    len: u32,
}

/// The next part of the output.
pub(super) enum Part<'a> {
    Bytes(&'a [u8]),
    Data { cid: u16, offset: u32, len: u32 },
}

/// The send queue of one connection. For each command it has at most a capsule and the data of one R2T.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many bytes of the run were sent.
    done: usize,
    pieces: VecDeque<Piece>,
    /// How many bytes of the run follow the last piece.
    tail: usize,
    /// How many bytes were appended since the connection began, data included.
    appended: u64,
    /// How many of these bytes the socket took.
    taken: u64,
}

impl Outbox {
    /// The position of the next output in the stream of the connection, for [`Self::has_sent`].
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.appended
    }

    /// Whether the socket took any byte of the output that was appended at `place`.
    #[inline]
    pub(super) fn has_sent(&self, place: u64) -> bool {
        self.taken > place
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.tail == 0 && self.pieces.is_empty()
    }

    /// Appends a PDU with `len` bytes of a command's data from `offset` on.
    #[inline]
    pub(super) fn pdu(
        &mut self,
        placement: Placement,
        header: &[u8],
        cid: u16,
        offset: u32,
        len: u32,
        data: &impl Payload,
    ) {
        self.write(header);
        if placement.header_digest {
            self.write(&digest::of(header));
        }
        if len == 0 {
            return;
        }
        let pad_len = usize::from(placement.pad_len);
        self.bytes.resize(self.bytes.len() + pad_len, 0);
        self.tail += pad_len;
        self.appended += u64::from(placement.pad_len);
        let bytes = std::mem::take(&mut self.tail);
        self.pieces.push_back(Piece { bytes, cid, offset, len });
        self.appended += u64::from(len);
        if placement.data_digest {
            let mut crc = Crc32c::new();
            data.look(offset, len, &mut |bytes| crc.update(bytes));
            self.write(&crc.bytes());
        }
    }

    /// Reports to the controller how it broke the protocol, unless other output is still pending.
    pub(super) fn terminate(&mut self, error: ProtocolError, header: &[u8]) {
        // A PDU may be half sent, so nothing else can follow.
        if !self.is_empty() {
            return;
        }
        let header = header.get(..TermReq::MAX_DATA_LEN).unwrap_or(header);
        let mut bytes = [0; TermReq::LEN];
        TermReq::new(Role::Host, error).encode(u8::try_from(header.len()).unwrap_or(0), &mut bytes);
        self.write(&bytes);
        self.write(header);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.tail += bytes.len();
        self.appended += bytes.len() as u64;
    }

    /// Shows the parts in order until `see` returns false.
    pub(super) fn show<'a>(&'a self, mut see: impl FnMut(Part<'a>) -> bool) {
        let mut run = self.bytes.get(self.done..).unwrap_or_default();
        for piece in &self.pieces {
            let Some((head, rest)) = run.split_at_checked(piece.bytes) else { return };
            run = rest;
            if !head.is_empty() && !see(Part::Bytes(head)) {
                return;
            }
            let Piece { cid, offset, len, .. } = *piece;
            if !see(Part::Data { cid, offset, len }) {
                return;
            }
        }
        if !run.is_empty() {
            see(Part::Bytes(run));
        }
    }

    /// Drops `len` bytes that were sent. Calls `data_sent` for each command whose data was among them, with the
    /// length of that data.
    pub(super) fn sent(&mut self, mut len: usize, mut data_sent: impl FnMut(u16, u32)) {
        self.taken += len as u64;
        while let Some(first) = self.pieces.front_mut() {
            let bytes = len.min(first.bytes);
            first.bytes -= bytes;
            self.done += bytes;
            len -= bytes;
            let data = u32::try_from(len).unwrap_or(u32::MAX).min(first.len);
            first.offset += data;
            first.len -= data;
            len -= data as usize;
            let (cid, is_out) = (first.cid, first.bytes == 0 && first.len == 0);
            if is_out {
                self.pieces.pop_front();
            }
            if data > 0 {
                data_sent(cid, data);
            }
            if !is_out {
                break;
            }
        }
        if self.pieces.is_empty() {
            let bytes = len.min(self.tail);
            self.tail -= bytes;
            self.done += bytes;
        }
        if self.is_empty() {
            self.bytes.clear();
            self.done = 0;
        } else if self.done >= SENT_MAX {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }
}

/// The error for a controller that requests more data than the command has.
pub(super) const LIMIT: ProtocolError = ProtocolError::of(Fes::LimitExceeded);
