//! The 16-byte completion queue entry. NVMe Base 2.0, section 3.3.3.2.

use crate::Status;
use crate::command::{join, split};

/// One completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Command specific result: DW0 in its low half, DW1 in its high half.
    pub result: u64,
    /// Submission queue head pointer, in entries. Over fabrics it is used for flow control.
    pub sqhd: u16,
    /// Submission queue identifier; reserved (zero) over fabrics.
    pub sqid: u16,
    /// Identifier of the completed command.
    pub cid: u16,
    /// Phase tag; reserved (false) over fabrics.
    pub phase: bool,
    /// Status of the command.
    pub status: Status,
}

impl Completion {
    /// Encoded length, in bytes.
    pub const LEN: usize = 16;

    /// Makes the completion of command `cid` with this status and no result.
    #[must_use]
    #[inline]
    pub const fn new(cid: u16, status: Status) -> Self {
        Self { result: 0, sqhd: 0, sqid: 0, cid, phase: false, status }
    }

    /// The same completion with DW0 as its result.
    #[must_use]
    pub const fn with_dw0(mut self, dw0: u32) -> Self {
        self.result = dw0 as u64;
        self
    }

    /// DW0 of the result.
    #[must_use]
    pub const fn dw0(&self) -> u32 {
        split(self.result).0
    }

    /// Parses a completion. Accepts any content.
    #[must_use]
    #[inline]
    pub const fn parse(bytes: &[u8; 16]) -> Self {
        let word = u128::from_le_bytes(*bytes);
        let dw3 = (word >> 96) as u32;
        Self {
            result: join((word & 0xffff_ffff) as u32, (word >> 32 & 0xffff_ffff) as u32),
            sqhd: (word >> 64 & 0xffff) as u16,
            sqid: (word >> 80 & 0xffff) as u16,
            cid: (dw3 & 0xffff) as u16,
            phase: dw3 >> 16 & 1 == 1,
            status: Status::from_bits((dw3 >> 17) as u16),
        }
    }

    /// Writes the completion.
    #[must_use]
    #[inline]
    pub const fn encode(&self) -> [u8; 16] {
        let word = self.result as u128
            | (self.sqhd as u128) << 64
            | (self.sqid as u128) << 80
            | (self.cid as u128) << 96
            | (self.phase as u128) << 112
            | (self.status.bits() as u128) << 113;
        word.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_with_do_not_retry_has_the_bytes_of_the_specification() {
        let completion = Completion {
            result: 0x1_0203_0405,
            sqhd: 9,
            cid: 0x0708,
            ..Completion::new(0, Status::INVALID_FIELD.with_dnr())
        };
        assert_eq!(completion.encode(), [5, 4, 3, 2, 1, 0, 0, 0, 9, 0, 0, 0, 8, 7, 0x04, 0x80]);
        assert_eq!(completion.dw0(), 0x0203_0405);
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(bytes in any::<[u8; 16]>()) {
            prop_assert_eq!(Completion::parse(&bytes).encode(), bytes);
        }
    }
}
