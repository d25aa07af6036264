//! Terminate connection requests, in both directions. NVMe/TCP 1.0, sections 3.6.2.3 and 3.6.2.4.

use crate::header::{CommonHeader, PduType, put, take};
use crate::{Fes, ProtocolError, Role};

/// Why the sender ends the connection. The header of the PDU in error follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermReq {
    /// The sender.
    pub sender: Role,
    /// Fatal error status; a number of [`Fes`] if known.
    pub fes: u16,
    /// Fatal error information.
    pub fei: u32,
}

impl TermReq {
    /// Encoded length without the header that follows, in bytes.
    pub const LEN: usize = 24;
    /// Maximum length of the header that may follow, in bytes.
    pub const MAX_DATA_LEN: usize = 128;
    /// Maximum length of the PDU, in bytes.
    pub const MAX_PLEN: u32 = 152;

    /// The request that reports `error`.
    #[must_use]
    pub const fn new(sender: Role, error: ProtocolError) -> Self {
        Self { sender, fes: error.fes.bits(), fei: error.fei }
    }

    /// The reported error; `None` if its status is unknown.
    #[must_use]
    pub fn error(&self) -> Option<ProtocolError> {
        Fes::from_bits(self.fes).map(|fes| ProtocolError { fes, fei: self.fei })
    }

    /// Parses the PDU. [`crate::Frame::parse`] has accepted its common header.
    #[must_use]
    pub const fn parse(bytes: &[u8; 24], sender: Role) -> Self {
        Self {
            sender,
            fes: u16::from_le_bytes(take::<8, 2, 24>(bytes)),
            fei: u32::from_le_bytes(take::<10, 4, 24>(bytes)),
        }
    }

    /// Writes the PDU. The first `data_len` bytes of the PDU in error must follow. Limits `data_len` to
    /// [`Self::MAX_DATA_LEN`].
    pub fn encode(&self, data_len: u8, out: &mut [u8; 24]) {
        let pdu_type = match self.sender {
            Role::Host => PduType::H2cTermReq,
            Role::Controller => PduType::C2hTermReq,
        };
        let plen = 24 + u32::from(data_len).min(128);
        let common = CommonHeader { pdu_type: pdu_type as u8, flags: 0, hlen: 24, pdo: 0, plen };
        *out = [0; 24];
        put::<0, 8, 24>(out, common.encode());
        put::<8, 2, 24>(out, self.fes.to_le_bytes());
        put::<10, 4, 24>(out, self.fei.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_field_is_reported_with_its_offset() {
        let request = TermReq::new(Role::Controller, ProtocolError::field(4));
        let mut bytes = [0xff; 24];
        request.encode(72, &mut bytes);
        assert_eq!(bytes[..16], [3, 0, 24, 0, 96, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(TermReq::parse(&bytes, Role::Controller), request);
        assert_eq!(request.error(), Some(ProtocolError::field(4)));
        request.encode(255, &mut bytes);
        assert_eq!(bytes[4], 152);
    }

    #[test]
    fn an_unknown_status_is_no_error_of_ours() {
        assert_eq!(TermReq { sender: Role::Host, fes: 7, fei: 0 }.error(), None);
    }
}
