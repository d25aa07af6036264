//! Header and data digests: CRC32C, the only numbers that are little-endian on the wire. RFC 7143, section 13.1.

use crate::DIGEST_LEN;

/// A digest over bytes in any number of pieces. It uses the processor's instruction if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The digest of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The digest in wire format.
    #[must_use]
    pub const fn bytes(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }
}

/// The digest of `bytes` in wire format.
#[must_use]
pub fn of(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    crc32c::crc32c(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 7143, appendix A.4.
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(of(&up), [0x4e, 0x79, 0xdd, 0x46]);
        let mut parts = Crc32c::new();
        parts.update(&up[..5]);
        parts.update(&up[5..]);
        assert_eq!(parts.bytes(), of(&up));
    }
}
