//! iSCSI's PDUs, login text and CHAP: bytes to values and back, no I/O. RFC 7143.
//!
//! Every PDU begins with a basic header segment of 48 bytes: [`header::Header`] parses the common fields, [`pdu`] the rest. Additional
//! header segments, a header digest, the data padded to 4 bytes, and a data digest ([`digest`]) follow. The data of Login and Text PDUs
//! is text ([`text`]), with which the ends negotiate keys ([`negotiation`]). With [`chap`], the ends authenticate each other.
//!
//! All numbers are big-endian, except the digests. Nothing here panics on bytes from outside, and every length has a bound.

#![forbid(unsafe_code)]

pub mod chap;
pub mod digest;
pub mod header;
pub mod inbox;
pub mod name;
pub mod negotiation;
pub mod pdu;
pub mod text;

pub use header::{Header, Opcode};

/// Length of a basic header segment, in bytes.
pub const BHS_LEN: usize = 48;
/// Length of a digest, in bytes.
pub const DIGEST_LEN: usize = 4;
/// "No tag" (initiator or target task tag, reserved).
pub const NO_TAG: u32 = 0xffff_ffff;
/// The port that IANA has assigned.
pub const PORT: u16 = 3260;

/// Bytes that pad `len` bytes of data to a multiple of 4.
#[must_use]
pub const fn pad_len(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Whether `a` comes before `b` among serial numbers. RFC 1982; RFC 7143, section 4.2.2.1.
#[must_use]
pub const fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_wrap() {
        assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
        assert!(is_before(1, 2) && !is_before(2, 2) && !is_before(2, 1));
    }

    #[test]
    fn data_is_padded_to_words() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(pad_len), [0, 3, 2, 1, 0, 3]);
    }
}
