//! The messages between an NBD server and its client.
//!
//! Converts between bytes and values; does no I/O. Source: "The NBD protocol" (`doc/proto.md` of the nbd project), fixed
//! newstyle negotiation with structured replies and extended headers. All numbers are big-endian.
//!
//! ```text
//! greeting ─▶ client flags ─▶ options (handshake) ─▶ GO or EXPORT_NAME ─▶ requests and replies (transmission)
//! ```
#![forbid(unsafe_code)]

pub mod handshake;
pub mod transmission;

#[cfg(test)]
mod tests;

/// The peer violates the protocol. The connection ends. The text says what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads numbers from the start of the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}
