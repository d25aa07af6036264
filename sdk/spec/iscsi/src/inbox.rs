//! The received bytes of a connection that are not handled yet, split into PDUs. RFC 7143, section 11.2.

use crate::{BHS_LEN, DIGEST_LEN, Header, digest, pad_len};
use std::fmt;

/// Size of a new buffer, in bytes. Every read has room for at least a quarter of it.
const ROOM: usize = 16 << 10;

/// The peer sent bytes that are not a PDU, or a wrong digest. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The data is longer than negotiated.
    TooLong,
    /// The header's digest is wrong.
    HeaderDigest,
    /// The data's digest is wrong.
    DataDigest,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a PDU is longer than was agreed",
            Self::HeaderDigest => "the digest of a header is wrong",
            Self::DataDigest => "the digest of data is wrong",
        })
    }
}

/// Received bytes. The buffer grows with a long PDU, and shrinks when it is empty.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Start of the bytes that are not handled yet.
    start: usize,
    /// End of the received bytes.
    end: usize,
}

/// The negotiated framing of PDUs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    /// Header digests are in use.
    pub header_digest: bool,
    /// Data digests are in use.
    pub data_digest: bool,
    /// Longest data of a PDU, in bytes.
    pub data_len_max: u32,
}

/// A complete PDU at the front of an inbox.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The basic header segment.
    pub bhs: [u8; BHS_LEN],
    /// The fields that all PDUs share.
    pub header: Header,
    data_at: usize,
    len: usize,
}

impl Inbox {
    /// Returns the room for the next bytes; call [`received`](Self::received) afterwards.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < ROOM / 4 && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() - self.end < ROOM / 4 {
            let wanted = (self.bytes.len() * 2).max(ROOM);
            self.bytes.resize(wanted, 0);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Reports that `len` bytes were written to [`room`](Self::room).
    pub fn received(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// Appends bytes as if they had been received: the rest of another inbox.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(place) = room.get_mut(..len) {
                place.copy_from_slice(now);
            }
            self.received(len);
            bytes = later;
        }
    }

    /// The bytes that are not handled yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The PDU at the front; `None` while it is incomplete.
    ///
    /// # Errors
    /// The bytes are not a PDU, or a digest is wrong.
    pub fn front(&self, framing: &Framing) -> Result<Option<Frame>, Broken> {
        let rest = self.rest();
        let Some(bhs) = rest.first_chunk::<BHS_LEN>() else { return Ok(None) };
        let header = Header::parse(bhs);
        if header.data_len > framing.data_len_max {
            return Err(Broken::TooLong);
        }
        let headers = BHS_LEN + usize::from(header.ahs_len);
        let data_at = headers + if framing.header_digest { DIGEST_LEN } else { 0 };
        let data_len = usize::try_from(header.data_len).unwrap_or(usize::MAX);
        let padded = data_len + pad_len(data_len);
        let has_digest = framing.data_digest && data_len > 0;
        let len = data_at + padded + if has_digest { DIGEST_LEN } else { 0 };
        if framing.header_digest
            && let (Some(covered), Some(told)) = (rest.get(..headers), rest.get(headers..data_at))
            && digest::of(covered) != *told
        {
            return Err(Broken::HeaderDigest);
        }
        let Some(whole) = rest.get(..len) else { return Ok(None) };
        if has_digest {
            let data = whole.get(data_at..data_at + padded).unwrap_or_default();
            let told = whole.get(data_at + padded..).unwrap_or_default();
            if digest::of(data) != *told {
                return Err(Broken::DataDigest);
            }
        }
        Ok(Some(Frame { bhs: *bhs, header, data_at, len }))
    }

    /// The data of the PDU at the front.
    #[must_use]
    pub fn data(&self, frame: &Frame) -> &[u8] {
        let at = self.start + frame.data_at;
        let len = usize::try_from(frame.header.data_len).unwrap_or(0);
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    /// Removes the PDU at the front.
    pub fn consume(&mut self, frame: &Frame) {
        self.start = (self.start + frame.len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // The connection may be idle now, so it releases the memory of large PDUs.
            if self.bytes.len() > 4 * ROOM {
                self.bytes.truncate(4 * ROOM);
                self.bytes.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::NopOut;

    fn framing(header_digest: bool, data_digest: bool) -> Framing {
        Framing { header_digest, data_digest, data_len_max: 65_536 }
    }

    /// A PDU with its padding and digests.
    fn wire(framing: &Framing, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        let bhs = NopOut { itt: 7, ..NopOut::default() }.encode(len);
        let padded = [data, &[0; 3][..pad_len(data.len())]].concat();
        let mut wire = bhs.to_vec();
        if framing.header_digest {
            wire.extend(digest::of(&bhs));
        }
        wire.extend(&padded);
        if framing.data_digest && !data.is_empty() {
            wire.extend(digest::of(&padded));
        }
        wire
    }

    #[test]
    fn a_pdu_is_whole_at_its_last_byte_however_it_is_cut() {
        for (header_digest, data_digest) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let framing = framing(header_digest, data_digest);
            let bytes = wire(&framing, b"hello");
            let mut inbox = Inbox::default();
            for (at, byte) in bytes.iter().enumerate() {
                assert!(inbox.front(&framing).unwrap().is_none(), "whole at {at}");
                inbox.push(&[*byte]);
            }
            let frame = inbox.front(&framing).unwrap().unwrap();
            assert_eq!(inbox.data(&frame), b"hello");
            inbox.consume(&frame);
            assert_eq!(inbox.rest(), b"");
        }
    }

    #[test]
    fn a_changed_bit_is_found_by_the_digest_over_it() {
        let framing = framing(true, true);
        let bytes = wire(&framing, &[5; 30]);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            let mut inbox = Inbox::default();
            inbox.push(&wrong);
            // A length that is wrong makes it longer or shorter, and the digest is wrong before that matters.
            let read = inbox.front(&framing);
            assert!(read.is_err() || read.unwrap().is_none(), "{at}");
        }
    }

    #[test]
    fn more_data_than_was_agreed_is_refused_before_it_comes() {
        let bytes = wire(&framing(false, false), &[0; 4096]);
        let mut inbox = Inbox::default();
        inbox.push(&bytes[..BHS_LEN]);
        let small = Framing { data_len_max: 4095, ..framing(false, false) };
        assert_eq!(inbox.front(&small).unwrap_err(), Broken::TooLong);
    }

    #[test]
    fn many_pdus_go_through_little_memory() {
        let framing = framing(false, false);
        let bytes = wire(&framing, &[9; 5000]);
        let mut inbox = Inbox::default();
        for _ in 0..100 {
            inbox.push(&bytes[..3000]);
            assert!(inbox.front(&framing).unwrap().is_none());
            inbox.push(&bytes[3000..]);
            let frame = inbox.front(&framing).unwrap().unwrap();
            assert_eq!(inbox.data(&frame), [9; 5000]);
            inbox.consume(&frame);
        }
        assert!(inbox.bytes.len() <= 2 * ROOM, "{}", inbox.bytes.len());
    }
}
