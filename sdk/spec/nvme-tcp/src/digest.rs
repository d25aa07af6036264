//! Header and data digests: CRC32C. NVMe/TCP 1.0, section 3.3.1.1.

use crate::DIGEST_LEN;

/// Computes a digest over bytes that arrive in pieces.
///
/// Uses the processor's CRC32C instruction if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The digest of zero bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes.
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

/// The digest of the bytes of all `slices` in wire format.
#[must_use]
pub fn of_slices<'a>(slices: impl IntoIterator<Item = &'a [u8]>) -> [u8; DIGEST_LEN] {
    let mut crc = Crc32c::new();
    for slice in slices {
        crc.update(slice);
    }
    crc.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(of(b"123456789"), 0xe306_9283u32.to_le_bytes());
        // RFC 3720, section B.4.
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    }

    proptest! {
        #[test]
        fn slices_give_the_digest_of_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(of_slices([a, b]), of(&bytes));
        }
    }
}
