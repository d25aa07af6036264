//! READ CAPACITY and GET LBA STATUS. SBC-3, sections 5.15, 5.16 and 5.5.

use crate::bytes::{len32, put, u8_at, u16_at, u32_at, u64_at};

/// The capacity of a unit, as READ CAPACITY (16) reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The last block.
    pub last_lba: u64,
    /// Length of a block, in bytes.
    pub block_len: u32,
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
    pub physical_exponent: u8,
    /// LBPME: unmapping is supported.
    pub provisioned: bool,
    /// LBPRZ: unmapped blocks read as zeros.
    pub reads_zeros: bool,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned: u16,
}

impl Capacity {
    /// Length of the data of READ CAPACITY (16), in bytes.
    pub const LEN: usize = 32;

    /// The data of READ CAPACITY (16).
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &self.last_lba.to_be_bytes());
        put(&mut bytes, 8, &self.block_len.to_be_bytes());
        put(&mut bytes, 13, &[self.physical_exponent & 0xf]);
        let flags = u16::from(self.provisioned) << 15 | u16::from(self.reads_zeros) << 14;
        put(&mut bytes, 14, &(flags | self.lowest_aligned & 0x3fff).to_be_bytes());
        bytes
    }

    /// Reads the data of READ CAPACITY (16).
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let flags = u16_at(bytes, 14);
        Self {
            last_lba: u64_at(bytes, 0),
            block_len: u32_at(bytes, 8),
            physical_exponent: u8_at(bytes, 13) & 0xf,
            provisioned: flags & 0x8000 != 0,
            reads_zeros: flags & 0x4000 != 0,
            lowest_aligned: flags & 0x3fff,
        }
    }

    /// The data of READ CAPACITY (10). A last block of all ones says that the unit is too large for this command.
    #[must_use]
    pub fn encode_10(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let last_lba = u32::try_from(self.last_lba).unwrap_or(u32::MAX);
        put(&mut bytes, 0, &last_lba.to_be_bytes());
        put(&mut bytes, 4, &self.block_len.to_be_bytes());
        bytes
    }
}

/// How blocks are provisioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Provisioning {
    /// Mapped, or unknown.
    Mapped = 0,
    /// Deallocated.
    Deallocated = 1,
    /// Anchored.
    Anchored = 2,
}

/// The data of GET LBA STATUS with one descriptor.
#[must_use]
pub fn encode_lba_status(lba: u64, blocks: u32, status: Provisioning) -> [u8; 24] {
    let mut bytes = [0; 24];
    put(&mut bytes, 0, &len32(20));
    put(&mut bytes, 8, &lba.to_be_bytes());
    put(&mut bytes, 16, &blocks.to_be_bytes());
    put(&mut bytes, 20, &[status as u8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_unit_sends_the_initiator_to_the_longer_command() {
        let capacity = Capacity { last_lba: 1 << 32, block_len: 512, ..Capacity::default() };
        assert_eq!(capacity.encode_10(), [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        let small = Capacity { last_lba: 2047, ..capacity };
        assert_eq!(small.encode_10(), [0, 0, 7, 0xff, 0, 0, 2, 0]);
    }

    #[test]
    fn provisioning_is_in_the_two_high_bits() {
        let capacity = Capacity {
            last_lba: 9,
            block_len: 4096,
            physical_exponent: 3,
            provisioned: true,
            reads_zeros: true,
            lowest_aligned: 1,
        };
        assert_eq!(capacity.encode()[13..16], [3, 0xc0, 1]);
        assert_eq!(Capacity::parse(&capacity.encode()), capacity);
    }
}
