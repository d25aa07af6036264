//! ICReq and ICResp: the parameters that both ends agree on. NVMe/TCP 1.0, sections 3.6.2.1 and 3.6.2.2.

use crate::frame::{Alignment, Digests, Placement};
use crate::header::{PduType, put, take};
use crate::{CommonHeader, ProtocolError};

/// Initialize connection request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcReq {
    /// PDU format version: 0.
    pub pfv: u16,
    /// Alignment of the data to the host.
    pub hpda: Alignment,
    /// Digests that the host requests.
    pub digests: Digests,
    /// Maximum number of outstanding R2Ts per command, minus one.
    pub maxr2t: u32,
}

/// Initialize connection response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcResp {
    /// PDU format version: 0.
    pub pfv: u16,
    /// Alignment of the data to the controller.
    pub cpda: Alignment,
    /// Digests used from now on.
    pub digests: Digests,
    /// Maximum length of the data of an H2CData, in bytes: at least 4096, a multiple of 4.
    pub maxh2cdata: u32,
}

const DGST_OFFSET: u32 = 11;

fn encode(
    pdu_type: PduType,
    pfv: u16,
    pda: Alignment,
    digests: Digests,
    limit: u32,
    out: &mut [u8; 128],
) {
    *out = [0; 128];
    let placement = Placement::new(pdu_type, 0, Digests::default(), Alignment::DWORD);
    put::<0, 8, 128>(out, placement.common(pdu_type, 0).encode());
    put::<8, 2, 128>(out, pfv.to_le_bytes());
    put::<10, 2, 128>(out, [pda.bits(), u8::from(digests.header) | u8::from(digests.data) << 1]);
    put::<12, 4, 128>(out, limit.to_le_bytes());
}

/// PFV, alignment, digests and the last field.
fn parse(bytes: &[u8; 128]) -> Result<(u16, Alignment, Digests, u32), ProtocolError> {
    let pfv = u16::from_le_bytes(take::<8, 2, 128>(bytes));
    if pfv != 0 {
        return Err(ProtocolError::unsupported(8));
    }
    let [pda, dgst] = take::<10, 2, 128>(bytes);
    let pda = Alignment::from_bits(pda).ok_or(ProtocolError::field(10))?;
    let digests = Digests { header: dgst & 1 != 0, data: dgst & 2 != 0 };
    Ok((pfv, pda, digests, u32::from_le_bytes(take::<12, 4, 128>(bytes))))
}

impl IcReq {
    /// Encoded length, in bytes.
    pub const LEN: usize = 128;

    /// Parses the PDU. [`crate::Frame::parse`] has accepted its common header.
    ///
    /// # Errors
    /// A PDU format version other than 0 (unsupported parameter), or an alignment above 31.
    pub fn parse(bytes: &[u8; 128]) -> Result<Self, ProtocolError> {
        let (pfv, hpda, digests, maxr2t) = parse(bytes)?;
        Ok(Self { pfv, hpda, digests, maxr2t })
    }

    /// Writes the PDU.
    pub fn encode(&self, out: &mut [u8; 128]) {
        encode(PduType::IcReq, self.pfv, self.hpda, self.digests, self.maxr2t, out);
    }
}

impl IcResp {
    /// Encoded length, in bytes.
    pub const LEN: usize = 128;
    /// Minimum of [`Self::maxh2cdata`], in bytes.
    pub const MIN_MAXH2CDATA: u32 = 4096;

    /// Parses the PDU. [`crate::Frame::parse`] has accepted its common header.
    ///
    /// # Errors
    /// A PDU format version other than 0 (unsupported parameter), an alignment above 31, a MAXH2CDATA below 4096 or not a
    /// multiple of 4, or a digest that the host did not request.
    pub fn parse(bytes: &[u8; 128], asked_for: Digests) -> Result<Self, ProtocolError> {
        let (pfv, cpda, digests, maxh2cdata) = parse(bytes)?;
        if digests.header && !asked_for.header || digests.data && !asked_for.data {
            return Err(ProtocolError::field(DGST_OFFSET));
        }
        if maxh2cdata < Self::MIN_MAXH2CDATA || maxh2cdata % 4 != 0 {
            return Err(ProtocolError::field(12));
        }
        Ok(Self { pfv, cpda, digests, maxh2cdata })
    }

    /// Writes the PDU.
    pub fn encode(&self, out: &mut [u8; 128]) {
        encode(PduType::IcResp, self.pfv, self.cpda, self.digests, self.maxh2cdata, out);
    }
}

const _: () = assert!(PduType::IcReq.header_len() as usize == IcReq::LEN);
const _: () = assert!(CommonHeader::LEN == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fes;
    use proptest::prelude::*;

    const RESP: IcResp = IcResp {
        pfv: 0,
        cpda: Alignment::DWORD,
        digests: Digests { header: true, data: false },
        maxh2cdata: 131_072,
    };

    fn bytes(resp: IcResp) -> [u8; 128] {
        let mut bytes = [0xff; 128];
        resp.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_request_has_the_bytes_of_the_specification() {
        let mut bytes = [0xff; 128];
        let digests = Digests { header: true, data: true };
        IcReq { pfv: 0, hpda: Alignment::DWORD, digests, maxr2t: 1 }.encode(&mut bytes);
        assert_eq!(bytes[..16], [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0]);
        assert!(bytes[16..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn another_format_version_is_an_unsupported_parameter() {
        let mut bytes = bytes(RESP);
        bytes[8] = 1;
        let error = IcReq::parse(&bytes).unwrap_err();
        assert_eq!(error, ProtocolError { fes: Fes::UnsupportedParameter, fei: 8 });
    }

    #[test]
    fn a_response_outside_the_limits_is_refused() {
        let asked = Digests { header: true, data: true };
        assert_eq!(IcResp::parse(&bytes(RESP), asked), Ok(RESP));
        let resp = bytes(RESP);
        assert_eq!(IcResp::parse(&resp, Digests::default()).unwrap_err().fei, 11);
        for maxh2cdata in [0, 4092, 4097] {
            let resp = bytes(IcResp { maxh2cdata, ..RESP });
            assert_eq!(IcResp::parse(&resp, asked).unwrap_err().fei, 12);
        }
        let mut wide = bytes(RESP);
        wide[10] = 32;
        assert_eq!(IcResp::parse(&wide, asked).unwrap_err().fei, 10);
    }

    proptest! {
        #[test]
        fn a_request_survives_a_round_trip(pda in 0u8..32, header: bool, data: bool, maxr2t: u32) {
            let hpda = Alignment::from_bits(pda).unwrap();
            let request = IcReq { pfv: 0, hpda, digests: Digests { header, data }, maxr2t };
            let mut bytes = [0; 128];
            request.encode(&mut bytes);
            prop_assert_eq!(IcReq::parse(&bytes), Ok(request));
        }
    }
}
