//! Command and response capsules. NVMe/TCP 1.0, sections 3.6.2.5 and 3.6.2.6.

use crate::frame::{Alignment, Digests, Placement};
use crate::header::{PduType, put, take};

/// Command capsule. In-capsule data may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapsuleCmd {
    /// The command.
    pub sqe: [u8; 64],
}

impl CapsuleCmd {
    /// Encoded length, in bytes.
    pub const LEN: usize = 72;

    /// Parses the PDU. [`crate::Frame::parse`] has accepted its common header.
    #[must_use]
    #[inline]
    pub const fn parse(bytes: &[u8; 72]) -> Self {
        Self { sqe: take::<8, 64, 72>(bytes) }
    }

    /// Writes the header of a capsule with `data_len` bytes of in-capsule data. Returns where the data goes.
    #[inline]
    pub const fn encode(
        &self,
        data_len: u32,
        digests: Digests,
        alignment: Alignment,
        out: &mut [u8; 72],
    ) -> Placement {
        let placement = Placement::new(PduType::CapsuleCmd, data_len, digests, alignment);
        put::<0, 8, 72>(out, placement.common(PduType::CapsuleCmd, 0).encode());
        put::<8, 64, 72>(out, self.sqe);
        placement
    }
}

/// Response capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapsuleResp {
    /// The completion.
    pub cqe: [u8; 16],
}

impl CapsuleResp {
    /// Encoded length, in bytes.
    pub const LEN: usize = 24;

    /// Parses the PDU. [`crate::Frame::parse`] has accepted its common header.
    #[must_use]
    #[inline]
    pub const fn parse(bytes: &[u8; 24]) -> Self {
        Self { cqe: take::<8, 16, 24>(bytes) }
    }

    /// Writes the PDU. The placement says whether a header digest follows.
    #[inline]
    pub const fn encode(&self, digests: Digests, out: &mut [u8; 24]) -> Placement {
        let placement = Placement::new(PduType::CapsuleResp, 0, digests, Alignment::DWORD);
        put::<0, 8, 24>(out, placement.common(PduType::CapsuleResp, 0).encode());
        put::<8, 16, 24>(out, self.cqe);
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capsule_with_data_has_the_bytes_of_the_specification() {
        let mut bytes = [0; 72];
        let digests = Digests { header: true, data: true };
        let capsule = CapsuleCmd { sqe: [0xaa; 64] };
        let placement = capsule.encode(512, digests, Alignment::DWORD, &mut bytes);
        assert_eq!(bytes[..9], [4, 3, 72, 76, 0x50, 2, 0, 0, 0xaa]);
        assert_eq!(placement.plen(), 592);
        assert_eq!(CapsuleCmd::parse(&bytes), capsule);
    }

    #[test]
    fn a_response_is_24_bytes_and_its_header_digest() {
        let mut bytes = [0; 24];
        let capsule = CapsuleResp { cqe: [0xbb; 16] };
        assert_eq!(capsule.encode(Digests::default(), &mut bytes).plen(), 24);
        assert_eq!(bytes[..9], [5, 0, 24, 0, 24, 0, 0, 0, 0xbb]);
        assert_eq!(CapsuleResp::parse(&bytes), capsule);
        capsule.encode(Digests { header: true, data: true }, &mut bytes);
        assert_eq!(bytes[..8], [5, 1, 24, 0, 28, 0, 0, 0]);
    }
}
