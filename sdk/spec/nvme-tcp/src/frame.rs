//! The positions of a PDU's parts: header, header digest, padding, data, data digest. NVMe/TCP 1.0, section 3.3.

use crate::header::{CommonHeader, PduType, flags};
use crate::{DIGEST_LEN, ProtocolError};

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Host (initiator).
    Host,
    /// Controller (target).
    Controller,
}

/// The digests that ICReq and ICResp have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Whether headers have a digest.
    pub header: bool,
    /// Whether data has a digest.
    pub data: bool,
}

/// Alignment of data in a PDU: HPDA for data to the host, CPDA for data to the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment(u8);

impl Alignment {
    /// Alignment to dwords, the minimum.
    pub const DWORD: Self = Self(0);

    /// Converts a zero-based number of dwords; `None` above 31.
    #[must_use]
    pub const fn from_bits(pda: u8) -> Option<Self> {
        if pda > 31 { None } else { Some(Self(pda)) }
    }

    /// The value of HPDA or CPDA.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The alignment in bytes, 4 to 128.
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> u8 {
        (self.0 + 1) * 4
    }
}

/// The positions of the parts of a PDU that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Length of the header without digest, in bytes.
    pub header_len: u8,
    /// Whether a header digest follows the header.
    pub header_digest: bool,
    /// Length of the padding after header and header digest, in bytes.
    pub pad_len: u8,
    /// Length of the data, in bytes.
    pub data_len: u32,
    /// Whether a data digest follows the data.
    pub data_digest: bool,
}

impl Placement {
    /// Maximum length of the data of one PDU, in bytes: PLEN has 32 bits.
    pub const MAX_DATA_LEN: u32 = u32::MAX - 256;

    /// Places `data_len` bytes after a header of this type. Limits `data_len` to [`Self::MAX_DATA_LEN`].
    #[must_use]
    #[inline]
    pub const fn new(
        pdu_type: PduType,
        data_len: u32,
        digests: Digests,
        alignment: Alignment,
    ) -> Self {
        let has_data = pdu_type.may_have_data() && data_len > 0;
        let header_digest = digests.header && pdu_type.may_have_digests();
        let mut placement = Self {
            header_len: pdu_type.header_len(),
            header_digest,
            pad_len: 0,
            data_len: if !has_data {
                0
            } else if data_len > Self::MAX_DATA_LEN {
                Self::MAX_DATA_LEN
            } else {
                data_len
            },
            data_digest: digests.data && has_data,
        };
        if has_data {
            let end = placement.header_end();
            placement.pad_len = end.next_multiple_of(alignment.bytes()) - end;
        }
        placement
    }

    #[inline]
    const fn header_end(&self) -> u8 {
        self.header_len + if self.header_digest { 4 } else { 0 }
    }

    /// Offset of the data from the start of the PDU, in bytes; 0 if there is no data.
    #[must_use]
    #[inline]
    pub const fn pdo(&self) -> u8 {
        if self.data_len == 0 { 0 } else { self.header_end() + self.pad_len }
    }

    /// Length of the whole PDU, in bytes.
    #[must_use]
    #[inline]
    pub const fn plen(&self) -> u32 {
        self.header_end() as u32
            + self.pad_len as u32
            + self.data_len
            + if self.data_digest { 4 } else { 0 }
    }

    /// Makes the common header. FLAGS has the digest flags and `more_flags`.
    #[inline]
    pub(crate) const fn common(&self, pdu_type: PduType, more_flags: u8) -> CommonHeader {
        let hdgstf = if self.header_digest { flags::HDGSTF } else { 0 };
        let ddgstf = if self.data_digest { flags::DDGSTF } else { 0 };
        CommonHeader {
            pdu_type: pdu_type as u8,
            flags: hdgstf | ddgstf | more_flags,
            hlen: self.header_len,
            pdo: self.pdo(),
            plen: self.plen(),
        }
    }
}

/// What one end of a connection accepts.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// The end.
    pub role: Role,
    /// The agreed digests; none before ICResp.
    pub digests: Digests,
    /// The alignment that this end has requested.
    pub alignment: Alignment,
    /// Maximum length of the data of a command capsule, in bytes.
    pub max_in_capsule_len: u32,
    /// Maximum length of the data of an H2CData, in bytes: MAXH2CDATA.
    pub max_h2c_data_len: u32,
}

impl Receiver {
    /// The state before the connection is initialized: no digests, minimum alignment, default maximum lengths.
    #[must_use]
    #[inline]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            digests: Digests { header: false, data: false },
            alignment: Alignment::DWORD,
            max_in_capsule_len: 8192,
            max_h2c_data_len: Placement::MAX_DATA_LEN,
        }
    }
}

/// The positions of the parts of a received PDU. All lengths agree with each other and with PLEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type of the PDU.
    pub pdu_type: PduType,
    /// FLAGS.
    pub flags: u8,
    /// Length of the header without digest, in bytes.
    pub header_len: usize,
    /// Whether a header digest follows the header.
    pub header_digest: bool,
    /// Offset of the data from the start of the PDU. Without data, the end of the header and its digest.
    pub data_offset: usize,
    /// Length of the data, in bytes. In a terminate request it is the length of the header in error.
    pub data_len: u32,
    /// Whether a data digest follows the data.
    pub data_digest: bool,
    /// Length of the whole PDU, in bytes.
    pub plen: u32,
}

impl Frame {
    /// Checks a common header against what `receiver` accepts.
    ///
    /// # Errors
    /// The first wrong field, in the order type, HLEN, FLAGS, PLEN, PDO; [`crate::Fes::LimitExceeded`] if an H2CData has
    /// more data than agreed. The caller checks whether the PDU is allowed at this point.
    #[inline]
    pub const fn parse(header: &CommonHeader, receiver: &Receiver) -> Result<Self, ProtocolError> {
        let pdu_type = match PduType::from_bits(header.pdu_type) {
            Some(pdu_type) if pdu_type.receiver() as u8 == receiver.role as u8 => pdu_type,
            _ => return Err(ProtocolError::field(CommonHeader::TYPE_OFFSET)),
        };
        if header.hlen != pdu_type.header_len() {
            return Err(ProtocolError::field(CommonHeader::HLEN_OFFSET));
        }
        let header_digest = receiver.digests.header && pdu_type.may_have_digests();
        if (header.flags & flags::HDGSTF != 0) != header_digest {
            return Err(ProtocolError::field(CommonHeader::FLAGS_OFFSET));
        }
        let header_end = header.hlen as u32 + if header_digest { 4 } else { 0 };
        let frame = Self {
            pdu_type,
            flags: header.flags,
            header_len: header.hlen as usize,
            header_digest,
            data_offset: header_end as usize,
            data_len: 0,
            data_digest: false,
            plen: header.plen,
        };
        match pdu_type {
            PduType::IcReq | PduType::IcResp | PduType::CapsuleResp | PduType::R2t => {
                if header.plen == header_end {
                    Ok(frame)
                } else {
                    Err(ProtocolError::field(CommonHeader::PLEN_OFFSET))
                }
            }
            PduType::H2cTermReq | PduType::C2hTermReq => frame.with_term_data(),
            PduType::CapsuleCmd if header.plen == header_end => Ok(frame),
            PduType::CapsuleCmd | PduType::H2cData | PduType::C2hData => {
                frame.with_data(header, receiver)
            }
        }
    }

    const fn with_term_data(self) -> Result<Self, ProtocolError> {
        if self.plen < 24 || self.plen > crate::TermReq::MAX_PLEN {
            return Err(ProtocolError::field(CommonHeader::PLEN_OFFSET));
        }
        Ok(Self { data_len: self.plen - 24, ..self })
    }

    #[inline]
    const fn with_data(
        self,
        header: &CommonHeader,
        receiver: &Receiver,
    ) -> Result<Self, ProtocolError> {
        let data_digest = receiver.digests.data;
        if (header.flags & flags::DDGSTF != 0) != data_digest {
            return Err(ProtocolError::field(CommonHeader::FLAGS_OFFSET));
        }
        let data_digest_len = if data_digest { 4 } else { 0 };
        let header_end = self.data_offset as u64;
        // There must be at least one byte of data.
        if (header.plen as u64) < header_end + data_digest_len as u64 + 1 {
            return Err(ProtocolError::field(CommonHeader::PLEN_OFFSET));
        }
        let pdo = header.pdo as u32;
        let data_end = header.plen - data_digest_len;
        if (pdo as u64) < header_end
            || pdo >= data_end
            || !header.pdo.is_multiple_of(receiver.alignment.bytes())
        {
            return Err(ProtocolError::field(CommonHeader::PDO_OFFSET));
        }
        let data_len = data_end - pdo;
        match self.pdu_type {
            PduType::CapsuleCmd if data_len > receiver.max_in_capsule_len => {
                return Err(ProtocolError::field(CommonHeader::PLEN_OFFSET));
            }
            PduType::H2cData if data_len > receiver.max_h2c_data_len => {
                return Err(ProtocolError::of(crate::Fes::LimitExceeded));
            }
            _ => {}
        }
        Ok(Self { data_offset: pdo as usize, data_len, data_digest, ..self })
    }

    /// Length of the header with its digest, in bytes.
    #[must_use]
    #[inline]
    pub const fn header_end(&self) -> usize {
        self.header_len + if self.header_digest { DIGEST_LEN } else { 0 }
    }

    /// Length of the padding between header and data, in bytes.
    #[must_use]
    pub const fn pad_len(&self) -> usize {
        self.data_offset - self.header_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fes;
    use proptest::prelude::*;

    const BOTH: Digests = Digests { header: true, data: true };

    fn controller() -> Receiver {
        Receiver { max_h2c_data_len: 131_072, ..Receiver::new(Role::Controller) }
    }

    fn h2c(pdo: u8, plen: u32) -> CommonHeader {
        CommonHeader { pdu_type: 6, flags: 0, hlen: 24, pdo, plen }
    }

    fn refused(header: CommonHeader, receiver: &Receiver) -> ProtocolError {
        Frame::parse(&header, receiver).unwrap_err()
    }

    #[test]
    fn data_follows_header_digest_and_padding() {
        let placement =
            Placement::new(PduType::CapsuleCmd, 4096, BOTH, Alignment::from_bits(31).unwrap());
        assert_eq!((placement.pad_len, placement.pdo(), placement.plen()), (52, 128, 4228));
        let plain = Placement::new(PduType::H2cData, 512, Digests::default(), Alignment::DWORD);
        assert_eq!((plain.pad_len, plain.pdo(), plain.plen()), (0, 24, 536));
    }

    #[test]
    fn without_data_there_is_neither_pdo_nor_padding_nor_data_digest() {
        let placement =
            Placement::new(PduType::CapsuleCmd, 0, BOTH, Alignment::from_bits(31).unwrap());
        assert_eq!((placement.pdo(), placement.plen(), placement.data_digest), (0, 76, false));
        let response = Placement::new(PduType::CapsuleResp, 9, BOTH, Alignment::DWORD);
        assert_eq!((response.pdo(), response.plen()), (0, 28));
    }

    #[test]
    fn initialization_never_has_digests() {
        let placement = Placement::new(PduType::IcReq, 0, BOTH, Alignment::DWORD);
        assert_eq!((placement.header_digest, placement.plen()), (false, 128));
    }

    #[test]
    fn an_unknown_type_and_one_of_the_own_side_are_refused_at_byte_0() {
        for pdu_type in [1, 3, 5, 7, 8, 9, 10, 255] {
            let header = CommonHeader { pdu_type, flags: 0, hlen: 24, pdo: 0, plen: 24 };
            assert_eq!(refused(header, &controller()), ProtocolError::field(0), "{pdu_type}");
        }
    }

    #[test]
    fn each_wrong_field_is_named_by_its_offset() {
        let receiver = controller();
        let capsule = CommonHeader { pdu_type: 4, flags: 0, hlen: 72, pdo: 0, plen: 72 };
        assert!(Frame::parse(&capsule, &receiver).is_ok());
        assert_eq!(refused(CommonHeader { hlen: 71, ..capsule }, &receiver).fei, 2);
        assert_eq!(refused(CommonHeader { flags: 1, ..capsule }, &receiver).fei, 1);
        assert_eq!(refused(CommonHeader { plen: 71, ..capsule }, &receiver).fei, 4);
        assert_eq!(refused(CommonHeader { plen: 80, ..capsule }, &receiver).fei, 3);
        assert_eq!(refused(CommonHeader { pdo: 73, plen: 80, ..capsule }, &receiver).fei, 3);
        assert_eq!(refused(CommonHeader { pdo: 80, plen: 80, ..capsule }, &receiver).fei, 3);
        assert_eq!(refused(CommonHeader { pdo: 72, plen: 72 + 8193, ..capsule }, &receiver).fei, 4);
        let data = CommonHeader { pdo: 72, plen: 76, ..capsule };
        assert_eq!(refused(CommonHeader { flags: 2, ..data }, &receiver).fei, 1);
        assert_eq!(Frame::parse(&data, &receiver).unwrap().data_len, 4);
    }

    #[test]
    fn data_must_be_aligned_as_asked_for() {
        let receiver = Receiver { alignment: Alignment::from_bits(15).unwrap(), ..controller() };
        assert_eq!(refused(h2c(24, 536), &receiver).fei, 3);
        assert_eq!(Frame::parse(&h2c(64, 576), &receiver).unwrap().pad_len(), 40);
    }

    #[test]
    fn an_alignment_that_is_no_power_of_two_may_put_data_behind_byte_128() {
        let alignment = Alignment::from_bits(17).unwrap();
        let placement = Placement::new(PduType::CapsuleCmd, 512, BOTH, alignment);
        assert_eq!((alignment.bytes(), placement.pdo()), (72, 144));
    }

    #[test]
    fn h2c_data_must_carry_data_and_no_more_than_agreed() {
        let receiver = controller();
        assert_eq!(refused(h2c(24, 24), &receiver).fei, 4);
        assert!(Frame::parse(&h2c(24, 24 + 131_072), &receiver).is_ok());
        assert_eq!(refused(h2c(24, 24 + 131_073), &receiver).fes, Fes::LimitExceeded);
        assert_eq!(refused(h2c(24, u32::MAX), &receiver).fes, Fes::LimitExceeded);
    }

    #[test]
    fn agreed_digests_must_be_there() {
        let receiver = Receiver { digests: BOTH, ..controller() };
        assert_eq!(refused(h2c(28, 540), &receiver).fei, 1);
        let header = CommonHeader { flags: 1, ..h2c(28, 540) };
        assert_eq!(refused(header, &receiver).fei, 1);
        let header = CommonHeader { flags: 3, ..h2c(28, 544) };
        let frame = Frame::parse(&header, &receiver).unwrap();
        assert_eq!((frame.data_len, frame.header_end(), frame.pad_len()), (512, 28, 0));
    }

    #[test]
    fn a_terminate_request_ends_at_152_bytes() {
        let term = |plen| CommonHeader { pdu_type: 2, flags: 0, hlen: 24, pdo: 0, plen };
        assert_eq!(Frame::parse(&term(152), &controller()).unwrap().data_len, 128);
        assert_eq!(refused(term(153), &controller()).fei, 4);
        assert_eq!(refused(term(23), &controller()).fei, 4);
    }

    proptest! {
        #[test]
        fn an_accepted_frame_adds_up(
            bytes: [u8; 8], data_bits in 0u8..4, pda in 0u8..32, host: bool,
        ) {
            let receiver = Receiver {
                role: if host { Role::Host } else { Role::Controller },
                digests: Digests { header: data_bits & 1 == 1, data: data_bits & 2 == 2 },
                alignment: Alignment::from_bits(pda).unwrap(),
                ..controller()
            };
            // Start from a valid header, because a random type and length would rarely be accepted.
            let mut header = CommonHeader::parse(&bytes);
            header.pdu_type %= 10;
            header.hlen = PduType::from_bits(header.pdu_type).map_or(24, PduType::header_len);
            header.plen %= 512;
            if let Ok(frame) = Frame::parse(&header, &receiver) {
                let digest_len = if frame.data_digest { 4 } else { 0 };
                let data_end = frame.data_offset as u64 + u64::from(frame.data_len);
                prop_assert_eq!(data_end + digest_len, u64::from(frame.plen));
                prop_assert!(frame.header_end() <= frame.data_offset);
            }
        }

        #[test]
        fn what_is_placed_is_accepted(
            kind in prop::sample::select(vec![PduType::CapsuleCmd, PduType::H2cData, PduType::C2hData]),
            data_len in 1u32..8192, header: bool, data: bool, pda in 0u8..32,
        ) {
            let digests = Digests { header, data };
            let alignment = Alignment::from_bits(pda).unwrap();
            let receiver =
                Receiver { role: kind.receiver(), digests, alignment, ..controller() };
            let placement = Placement::new(kind, data_len, digests, alignment);
            let frame = Frame::parse(&placement.common(kind, 0), &receiver).unwrap();
            prop_assert_eq!(frame.data_len, data_len);
            prop_assert_eq!(frame.data_offset, usize::from(placement.pdo()));
            prop_assert_eq!(frame.pad_len(), usize::from(placement.pad_len));
        }
    }
}
