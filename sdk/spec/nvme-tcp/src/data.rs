//! Data PDUs and R2T. NVMe/TCP 1.0, sections 3.6.2.7 to 3.6.2.9.

use crate::frame::{Alignment, Digests, Frame, Placement};
use crate::header::{PduType, flags, put, take};
use crate::{CommonHeader, ProtocolError};

/// Data from host to controller, in response to an R2T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2cData {
    /// Command identifier.
    pub cccid: u16,
    /// Transfer tag of the R2T.
    pub ttag: u16,
    /// Offset of the data in the command's buffer, in bytes.
    pub datao: u32,
    /// Length of the data, in bytes.
    pub datal: u32,
    /// Whether it is the last PDU for its R2T.
    pub last: bool,
}

/// Data from controller to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct C2hData {
    /// Command identifier.
    pub cccid: u16,
    /// Offset of the data in the command's buffer, in bytes.
    pub datao: u32,
    /// Length of the data, in bytes.
    pub datal: u32,
    /// Whether it is the last PDU for its command.
    pub last: bool,
    /// Whether the command succeeded and no response capsule follows; only with `last`.
    pub success: bool,
}

/// Ready to transfer: the controller requests data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// Command identifier.
    pub cccid: u16,
    /// Transfer tag. The host returns it with the data.
    pub ttag: u16,
    /// Offset of the data in the command's buffer, in bytes.
    pub r2to: u32,
    /// Length of the data, in bytes.
    pub r2tl: u32,
}

const DATAL_OFFSET: u32 = 16;

fn encode(
    common: CommonHeader,
    [cccid, ttag]: [u16; 2],
    [offset, length]: [u32; 2],
    out: &mut [u8; 24],
) {
    *out = [0; 24];
    put::<0, 8, 24>(out, common.encode());
    put::<8, 2, 24>(out, cccid.to_le_bytes());
    put::<10, 2, 24>(out, ttag.to_le_bytes());
    put::<12, 4, 24>(out, offset.to_le_bytes());
    put::<16, 4, 24>(out, length.to_le_bytes());
}

fn parse(bytes: &[u8; 24]) -> ([u16; 2], [u32; 2]) {
    (
        [u16::from_le_bytes(take::<8, 2, 24>(bytes)), u16::from_le_bytes(take::<10, 2, 24>(bytes))],
        [
            u32::from_le_bytes(take::<12, 4, 24>(bytes)),
            u32::from_le_bytes(take::<16, 4, 24>(bytes)),
        ],
    )
}

impl H2cData {
    /// Encoded length, in bytes.
    pub const LEN: usize = 24;

    /// Parses the header of the PDU with this frame.
    ///
    /// # Errors
    /// DATAL is not the length of the data in the PDU.
    #[inline]
    pub fn parse(bytes: &[u8; 24], frame: &Frame) -> Result<Self, ProtocolError> {
        let ([cccid, ttag], [datao, datal]) = parse(bytes);
        if datal != frame.data_len {
            return Err(ProtocolError::field(DATAL_OFFSET));
        }
        Ok(Self { cccid, ttag, datao, datal, last: frame.flags & flags::LAST_PDU != 0 })
    }

    /// Writes the header. Returns where the data goes.
    #[inline]
    pub fn encode(&self, digests: Digests, alignment: Alignment, out: &mut [u8; 24]) -> Placement {
        let placement = Placement::new(PduType::H2cData, self.datal, digests, alignment);
        let last = if self.last { flags::LAST_PDU } else { 0 };
        let common = placement.common(PduType::H2cData, last);
        encode(common, [self.cccid, self.ttag], [self.datao, self.datal], out);
        placement
    }
}

impl C2hData {
    /// Encoded length, in bytes.
    pub const LEN: usize = 24;

    /// Parses the header of the PDU with this frame.
    ///
    /// # Errors
    /// DATAL is not the length of the data in the PDU, or a PDU before the last one reports success.
    #[inline]
    pub fn parse(bytes: &[u8; 24], frame: &Frame) -> Result<Self, ProtocolError> {
        let ([cccid, _], [datao, datal]) = parse(bytes);
        if datal != frame.data_len {
            return Err(ProtocolError::field(DATAL_OFFSET));
        }
        let last = frame.flags & flags::LAST_PDU != 0;
        let success = frame.flags & flags::SUCCESS != 0;
        if success && !last {
            return Err(ProtocolError::field(CommonHeader::FLAGS_OFFSET));
        }
        Ok(Self { cccid, datao, datal, last, success })
    }

    /// Writes the header. Returns where the data goes.
    #[inline]
    pub fn encode(&self, digests: Digests, alignment: Alignment, out: &mut [u8; 24]) -> Placement {
        let placement = Placement::new(PduType::C2hData, self.datal, digests, alignment);
        let last = if self.last { flags::LAST_PDU } else { 0 };
        let success = if self.success { flags::SUCCESS } else { 0 };
        let common = placement.common(PduType::C2hData, last | success);
        encode(common, [self.cccid, 0], [self.datao, self.datal], out);
        placement
    }
}

impl R2t {
    /// Encoded length, in bytes.
    pub const LEN: usize = 24;

    /// Parses the PDU. [`Frame::parse`] has accepted its common header.
    ///
    /// # Errors
    /// It requests no data.
    #[inline]
    pub fn parse(bytes: &[u8; 24]) -> Result<Self, ProtocolError> {
        let ([cccid, ttag], [r2to, r2tl]) = parse(bytes);
        if r2tl == 0 {
            return Err(ProtocolError::field(DATAL_OFFSET));
        }
        Ok(Self { cccid, ttag, r2to, r2tl })
    }

    /// Writes the PDU. The placement says whether a header digest follows.
    #[inline]
    pub fn encode(&self, digests: Digests, out: &mut [u8; 24]) -> Placement {
        let placement = Placement::new(PduType::R2t, 0, digests, Alignment::DWORD);
        let common = placement.common(PduType::R2t, 0);
        encode(common, [self.cccid, self.ttag], [self.r2to, self.r2tl], out);
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Receiver, Role};
    use proptest::prelude::*;

    fn frame(bytes: &[u8; 24], role: Role, digests: Digests) -> Result<Frame, ProtocolError> {
        let header = CommonHeader::parse(bytes.first_chunk().unwrap());
        Frame::parse(&header, &Receiver { digests, ..Receiver::new(role) })
    }

    #[test]
    fn h2c_data_has_the_bytes_of_the_specification() {
        let data = H2cData { cccid: 0x0102, ttag: 0x0304, datao: 4096, datal: 512, last: true };
        let mut bytes = [0xff; 24];
        data.encode(Digests::default(), Alignment::DWORD, &mut bytes);
        let expected =
            [6, 4, 24, 24, 0x18, 2, 0, 0, 2, 1, 4, 3, 0, 0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_length_that_is_not_the_data_s_is_refused() {
        let data = H2cData { cccid: 1, ttag: 2, datao: 0, datal: 512, last: true };
        let mut bytes = [0; 24];
        data.encode(Digests::default(), Alignment::DWORD, &mut bytes);
        let frame = frame(&bytes, Role::Controller, Digests::default()).unwrap();
        assert_eq!(H2cData::parse(&bytes, &frame), Ok(data));
        bytes[16] = 1;
        assert_eq!(H2cData::parse(&bytes, &frame), Err(ProtocolError::field(16)));
    }

    #[test]
    fn success_before_the_last_data_is_refused() {
        let data = C2hData { cccid: 1, datao: 0, datal: 4, last: false, success: true };
        let mut bytes = [0; 24];
        data.encode(Digests::default(), Alignment::DWORD, &mut bytes);
        let frame = frame(&bytes, Role::Host, Digests::default()).unwrap();
        assert_eq!(C2hData::parse(&bytes, &frame), Err(ProtocolError::field(1)));
    }

    #[test]
    fn an_r2t_for_nothing_is_refused() {
        let mut bytes = [0; 24];
        R2t { cccid: 1, ttag: 2, r2to: 3, r2tl: 0 }.encode(Digests::default(), &mut bytes);
        assert_eq!(R2t::parse(&bytes), Err(ProtocolError::field(16)));
    }

    proptest! {
        #[test]
        fn all_survive_a_round_trip(
            cccid: u16, ttag: u16, offset: u32, length in 1u32..1 << 30, header: bool, data: bool, last: bool,
        ) {
            let digests = Digests { header, data };
            let mut bytes = [0; 24];

            let h2c = H2cData { cccid, ttag, datao: offset, datal: length, last };
            h2c.encode(digests, Alignment::DWORD, &mut bytes);
            let found = frame(&bytes, Role::Controller, digests).unwrap();
            prop_assert_eq!(H2cData::parse(&bytes, &found), Ok(h2c));

            let c2h = C2hData { cccid, datao: offset, datal: length, last, success: last };
            c2h.encode(digests, Alignment::DWORD, &mut bytes);
            let found = frame(&bytes, Role::Host, digests).unwrap();
            prop_assert_eq!(C2hData::parse(&bytes, &found), Ok(c2h));

            let r2t = R2t { cccid, ttag, r2to: offset, r2tl: length };
            r2t.encode(digests, &mut bytes);
            frame(&bytes, Role::Host, digests).unwrap();
            prop_assert_eq!(R2t::parse(&bytes), Ok(r2t));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: [u8; 24], host: bool, header: bool, data: bool) {
            let role = if host { Role::Host } else { Role::Controller };
            if let Ok(frame) = frame(&bytes, role, Digests { header, data }) {
                let _ = H2cData::parse(&bytes, &frame);
                let _ = C2hData::parse(&bytes, &frame);
                let _ = R2t::parse(&bytes);
            }
        }
    }
}
