//! The common header of every PDU. NVMe/TCP 1.0, section 3.3.

use crate::frame::Role;

/// Type of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PduType {
    /// Initialize connection request.
    IcReq = 0,
    /// Initialize connection response.
    IcResp = 1,
    /// Host to controller terminate connection request.
    H2cTermReq = 2,
    /// Controller to host terminate connection request.
    C2hTermReq = 3,
    /// Command capsule.
    CapsuleCmd = 4,
    /// Response capsule.
    CapsuleResp = 5,
    /// Host to controller data.
    H2cData = 6,
    /// Controller to host data.
    C2hData = 7,
    /// Ready to transfer.
    R2t = 9,
}

impl PduType {
    /// The type with this number.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::IcReq,
            1 => Self::IcResp,
            2 => Self::H2cTermReq,
            3 => Self::C2hTermReq,
            4 => Self::CapsuleCmd,
            5 => Self::CapsuleResp,
            6 => Self::H2cData,
            7 => Self::C2hData,
            9 => Self::R2t,
            _ => return None,
        })
    }

    /// Length of the header without digest, in bytes: the value of HLEN.
    #[must_use]
    #[inline]
    pub const fn header_len(self) -> u8 {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// The end that receives this type.
    #[must_use]
    #[inline]
    pub const fn receiver(self) -> Role {
        match self {
            Self::IcReq | Self::H2cTermReq | Self::CapsuleCmd | Self::H2cData => Role::Controller,
            Self::IcResp | Self::C2hTermReq | Self::CapsuleResp | Self::C2hData | Self::R2t => {
                Role::Host
            }
        }
    }

    /// Whether PDUs of this type have digests once the ends have agreed on them.
    #[must_use]
    #[inline]
    pub const fn may_have_digests(self) -> bool {
        !matches!(self, Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq)
    }

    /// Whether data may follow the header. (A terminate request is followed by the header in error, which is not data.)
    #[must_use]
    #[inline]
    pub const fn may_have_data(self) -> bool {
        matches!(self, Self::CapsuleCmd | Self::H2cData | Self::C2hData)
    }
}

/// Bits of FLAGS.
pub mod flags {
    /// A header digest follows the header.
    pub const HDGSTF: u8 = 1;
    /// A data digest follows the data.
    pub const DDGSTF: u8 = 1 << 1;
    /// The last data PDU of a command or R2T.
    pub const LAST_PDU: u8 = 1 << 2;
    /// C2HData: the command succeeded, and no response capsule follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// The common header, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonHeader {
    /// Type; a number of [`PduType`] if valid.
    pub pdu_type: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Length of the header without digest, in bytes.
    pub hlen: u8,
    /// Offset of the data from the start of the PDU, in bytes.
    pub pdo: u8,
    /// Length of the whole PDU, in bytes.
    pub plen: u32,
}

impl CommonHeader {
    /// Encoded length, in bytes.
    pub const LEN: usize = 8;

    /// Byte offset of the type.
    pub const TYPE_OFFSET: u32 = 0;
    /// Byte offset of FLAGS.
    pub const FLAGS_OFFSET: u32 = 1;
    /// Byte offset of HLEN.
    pub const HLEN_OFFSET: u32 = 2;
    /// Byte offset of PDO.
    pub const PDO_OFFSET: u32 = 3;
    /// Byte offset of PLEN.
    pub const PLEN_OFFSET: u32 = 4;

    /// Parses a header. Accepts any content.
    #[must_use]
    #[inline]
    pub const fn parse(bytes: &[u8; 8]) -> Self {
        let [pdu_type, flags, hlen, pdo, p0, p1, p2, p3] = *bytes;
        Self { pdu_type, flags, hlen, pdo, plen: u32::from_le_bytes([p0, p1, p2, p3]) }
    }

    /// Writes the header.
    #[must_use]
    #[inline]
    pub const fn encode(&self) -> [u8; 8] {
        let [p0, p1, p2, p3] = self.plen.to_le_bytes();
        [self.pdu_type, self.flags, self.hlen, self.pdo, p0, p1, p2, p3]
    }
}

/// Copies `value` to `out` at `OFFSET`. A value that does not fit is a compile error.
#[inline]
pub(crate) const fn put<const OFFSET: usize, const LEN: usize, const N: usize>(
    out: &mut [u8; N],
    value: [u8; LEN],
) {
    const { assert!(OFFSET + LEN <= N) };
    let (_, rest) = out.split_at_mut(OFFSET);
    if let Some(place) = rest.first_chunk_mut::<LEN>() {
        *place = value;
    }
}

/// The `LEN` bytes at `OFFSET`. A range past the end is a compile error.
#[inline]
pub(crate) const fn take<const OFFSET: usize, const LEN: usize, const N: usize>(
    bytes: &[u8; N],
) -> [u8; LEN] {
    const { assert!(OFFSET + LEN <= N) };
    let (_, rest) = bytes.split_at(OFFSET);
    match rest.first_chunk::<LEN>() {
        Some(chunk) => *chunk,
        None => [0; LEN],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_bytes() {
        let header = CommonHeader { pdu_type: 4, flags: 3, hlen: 72, pdo: 76, plen: 0x0102_0304 };
        assert_eq!(header.encode(), [4, 3, 72, 76, 4, 3, 2, 1]);
    }

    #[test]
    fn eight_and_what_is_past_nine_is_no_type() {
        assert_eq!(PduType::from_bits(8), None);
        assert_eq!(PduType::from_bits(10), None);
        for bits in (0..8).chain([9]) {
            assert_eq!(PduType::from_bits(bits).map(|pdu_type| pdu_type as u8), Some(bits));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(bytes: [u8; 8]) {
            prop_assert_eq!(CommonHeader::parse(&bytes).encode(), bytes);
        }
    }
}
