//! Errors in PDUs.

use core::fmt;

/// Fatal error status. NVMe/TCP 1.0, section 3.6.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Fes {
    /// A header field is not valid. FEI is its offset.
    InvalidHeaderField = 1,
    /// The PDU is not allowed at this point.
    SequenceError = 2,
    /// The header digest does not match.
    HeaderDigest = 3,
    /// The data is outside of the requested range.
    DataOutOfRange = 4,
    /// There is more data, or there are more R2Ts, than agreed.
    LimitExceeded = 5,
    /// A parameter is not supported. FEI is its offset.
    UnsupportedParameter = 6,
}

impl Fes {
    /// The status with this number.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        Some(match bits {
            1 => Self::InvalidHeaderField,
            2 => Self::SequenceError,
            3 => Self::HeaderDigest,
            4 => Self::DataOutOfRange,
            5 => Self::LimitExceeded,
            6 => Self::UnsupportedParameter,
            _ => return None,
        })
    }

    /// Its number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self as u16
    }
}

/// A fatal error of a connection, as in a terminate connection request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// Fatal error status.
    pub fes: Fes,
    /// FEI: for [`Fes::InvalidHeaderField`] and [`Fes::UnsupportedParameter`] the offset of the field from the start of the PDU,
    /// in bytes; otherwise 0.
    pub fei: u32,
}

impl ProtocolError {
    /// The field at `offset` is not valid.
    #[must_use]
    pub const fn field(offset: u32) -> Self {
        Self { fes: Fes::InvalidHeaderField, fei: offset }
    }

    /// The parameter at `offset` is not supported.
    #[must_use]
    pub const fn unsupported(offset: u32) -> Self {
        Self { fes: Fes::UnsupportedParameter, fei: offset }
    }

    /// An error without further information.
    #[must_use]
    pub const fn of(fes: Fes) -> Self {
        Self { fes, fei: 0 }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fes {
            Fes::InvalidHeaderField => write!(f, "invalid PDU header field at byte {}", self.fei),
            Fes::SequenceError => f.write_str("PDU out of sequence"),
            Fes::HeaderDigest => f.write_str("header digest error"),
            Fes::DataOutOfRange => f.write_str("data outside the requested range"),
            Fes::LimitExceeded => f.write_str("data or R2T limit exceeded"),
            Fes::UnsupportedParameter => write!(f, "unsupported parameter at byte {}", self.fei),
        }
    }
}

impl std::error::Error for ProtocolError {}
